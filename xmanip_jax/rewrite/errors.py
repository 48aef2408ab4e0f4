"""What a rewrite refuses, by name."""

__all__ = ["DerivativeInModelError", "KinkWarning", "LayerError", "LostRuleWarning", "NoActivationError",
           "RewriteError", "UnsupportedPrimitiveError"]


class RewriteError(ValueError):
    """A model that cannot be rewritten faithfully."""


class NoActivationError(RewriteError):
    """The model calls no activation that the rewrite knows: nothing would have changed."""


class DerivativeInModelError(RewriteError):
    """The function already contains a derivative of an activation, which a rewrite would leave as it was."""


class UnsupportedPrimitiveError(RewriteError):
    """Something to rewrite sits inside an operation that cannot be rebuilt."""


class LayerError(RewriteError):
    """An unknown or ambiguous layer name."""


class KinkWarning(UserWarning):
    """A model that is meant to be smooth keeps operations that jump or have a kink, which no surrogate replaces."""


class LostRuleWarning(UserWarning):
    """A function with its own derivative rule contains an activation: rewriting it drops the rule."""
