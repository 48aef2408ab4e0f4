"""Networks (flax nnx) and their weights: one example [h, w, c] or a batch in, logits out."""

from ..extras import missing
from ..pooling import max_pool

try:
    from .attention import dot_product_attention, explicit_attention
    from .cct import CCT
    from .cifar_resnet import CifarResNet
    from .comparison import Comparison, LayerDifference, compare_layers
    from .convnext import ConvNeXt
    from .densenet import DenseNet121
    from .efficientnet_lite import EfficientNetLite0
    from .lipschitz import CentredSoftplus, LipschitzNorm, UnitNorm
    from .load import NETWORKS, Pretrained, load
    from .mobilenet import MobileNetV3
    from .net import Net, functional
    from .resnet import ResNet
    from .small_cnn import SmallCNN, SmallLCNN
    from .squeezenet import SqueezeNet
    from .swin import Swin
    from .vgg import VGG16, VGG19
    from .vit import ViT
    from .weights import WeightsError, load_weights, read_tensors, save_tensors, save_weights
except ImportError as error:
    raise missing("models", "models", error) from error

__all__ = ["CCT", "NETWORKS", "VGG16", "VGG19", "CentredSoftplus", "CifarResNet", "Comparison", "ConvNeXt",
           "DenseNet121", "EfficientNetLite0", "LayerDifference", "LipschitzNorm", "MobileNetV3", "Net",
           "Pretrained", "ResNet", "SmallCNN", "SmallLCNN", "SqueezeNet", "Swin", "UnitNorm", "ViT",
           "WeightsError", "compare_layers", "dot_product_attention", "explicit_attention", "functional",
           "load", "load_weights", "max_pool", "read_tensors", "save_tensors", "save_weights"]


def __dir__():
    return __all__
