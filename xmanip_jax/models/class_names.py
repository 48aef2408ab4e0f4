"""The names of the classes of ImageNet, CIFAR-10 and MNIST, in the order of the labels.

ImageNet's are those of its 2012 challenge as tensorflow-datasets lists them (Apache-2.0, datasets/siscore/labels.py),
the first of each label's synonyms; 639, which would repeat 638's "maillot", is called by its second, "tank suit".
"""

from pathlib import Path

__all__ = ["CIFAR10", "IMAGENET", "MNIST"]

IMAGENET = tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MNIST = tuple("0123456789")
