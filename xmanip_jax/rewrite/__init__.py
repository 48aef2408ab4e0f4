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
from .layers import Contents, Layer, inspect, layers, tap

__all__ = [
    "Call", "Contents", "DerivativeInModelError", "Layer", "LayerError", "LostRuleWarning", "NoActivationError",
    "RewriteError", "UnsupportedPrimitiveError", "Window", "inputs", "inspect", "layers", "map_calls", "replace", "tap",
]
