"""Writes torchvision.txt: what torchvision itself calls the weights of its networks, and their shapes.

Run with torch and torchvision (the file is 0.28.0's):  python tests/oracles/make_torchvision_shapes.py

A line is "network weight sizes...", one for each tensor of the state dictionary but num_batches_tracked.
"""

import pathlib

NETWORKS = ("vgg16", "vgg19", "resnet18", "resnet50", "densenet121")


def main():
    import torch
    import torchvision

    lines = []
    for network in NETWORKS:
        with torch.device("meta"):
            tensors = getattr(torchvision.models, network)().state_dict()
        lines += [" ".join([network, name, *map(str, tensor.shape)]) for name, tensor in tensors.items()
                  if not name.endswith("num_batches_tracked")]
    pathlib.Path(__file__).with_name("torchvision.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
