"""Networks (flax nnx) and their weights: one example [h, w, c] or a batch in, logits out."""

from .cifar_resnet import CifarResNet
from .efficientnet_lite import EfficientNetLite0
from .load import NETWORKS, Pretrained, load
from .net import Net, functional
from .pooling import max_pool
from .small_cnn import SmallCNN
from .squeezenet import SqueezeNet
from .vgg import VGG16
from .weights import WeightsError, load_weights, read_tensors, save_weights

__all__ = ["NETWORKS", "VGG16", "CifarResNet", "EfficientNetLite0", "Net", "Pretrained", "SmallCNN", "SqueezeNet",
           "WeightsError", "functional", "load", "load_weights", "max_pool", "read_tensors", "save_weights"]
