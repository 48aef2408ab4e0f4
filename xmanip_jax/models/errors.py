"""What goes wrong with weights."""

__all__ = ["WeightsError"]


class WeightsError(ValueError):
    """A weights file that cannot be read, or that does not fit the network."""
