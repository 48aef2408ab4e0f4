"""Training: penalties of one example, the loss that they add up to, the inner ascent, the loop.

A penalty is `(apply, params, state, x, y, key=None) -> Float[]` of ONE example; weights, batches and optimisers stay
outside. Defences (`defend`) and attacks on weights (`fool`) are penalties.
"""

from .ascent import Ascent, ascend, sign_step
from .loop import NanLossError, Training, batch_indices, begin, fit, frozen
from .loss import cross_entropy, no_penalty, parameter_penalty, penalty, training_loss, with_logits

__all__ = [
    "Ascent", "NanLossError", "Training", "ascend", "batch_indices", "begin", "cross_entropy", "fit", "frozen",
    "no_penalty", "parameter_penalty", "penalty", "sign_step", "training_loss", "with_logits",
]


def __dir__():
    return __all__
