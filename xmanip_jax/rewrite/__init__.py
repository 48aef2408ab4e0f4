"""Turn a model into another one without touching its code, and look inside it. See docs/rewrite.md."""

from .activations import ACTIVATIONS, Call, Window, inputs, map_calls, replace
from .attention import Attention, attention_weights, attentions
from .contents import Contents, inspect
from .errors import (
    DerivativeInModelError,
    KinkWarning,
    LayerError,
    LostRuleWarning,
    NoActivationError,
    RewriteError,
    UnsupportedPrimitiveError,
)
from .known import Known
from .layers import Layer, layer_values, layers, tap, zero_at
from .plan import Operation
from .propagate import LinearLayer, flow, linear_layers, propagate
from .stages import Program, Stage, stages
from .unroll import unroll

__all__ = [
    "ACTIVATIONS", "Attention", "Call", "Contents", "DerivativeInModelError", "KinkWarning", "Known", "Layer",
    "LayerError", "LinearLayer", "LostRuleWarning", "NoActivationError", "Operation", "Program", "RewriteError",
    "Stage", "UnsupportedPrimitiveError", "Window", "attention_weights", "attentions", "flow", "inputs", "inspect",
    "layer_values", "layers", "linear_layers", "map_calls", "propagate", "replace", "stages", "tap", "unroll",
    "zero_at",
]


def __dir__():
    return __all__
