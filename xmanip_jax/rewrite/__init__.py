"""Turn a model into another one without touching its code, and look inside it. See docs/rewrite.md."""

from .activations import Call, Window, inputs, map_calls, replace
from .errors import (
    DerivativeInModelError,
    LayerError,
    LostRuleWarning,
    NoActivationError,
    RewriteError,
    UnsupportedPrimitiveError,
)
from .layers import Contents, Layer, inspect, layers, tap, zero_at
from .plan import Operation
from .propagate import LinearLayer, flow, linear_layers, propagate
from .stages import Program, Stage, stages

__all__ = [
    "Call", "Contents", "DerivativeInModelError", "Layer", "LayerError", "LinearLayer", "LostRuleWarning",
    "NoActivationError", "Operation", "Program", "RewriteError", "Stage", "UnsupportedPrimitiveError", "Window", "flow",
    "inputs", "inspect", "layers", "linear_layers", "map_calls", "propagate", "replace", "stages", "tap", "zero_at",
]
