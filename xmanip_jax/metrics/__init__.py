"""How alike two maps are, and how sure a number over many images is.

Every measure is a pure function of ONE pair of maps: batch it with jax.vmap, compile it with jax.jit.
"""

from .dissimilarity import dssim, standardised_mse
from .faithfulness import aopc, pixel_flipping
from .fooling import frame, frame_distance, mass_center_shift, success_rate, swap_score, top_k_share
from .similarity import (
    cosine,
    gini,
    kendall,
    kl_divergence,
    mass_center,
    mass_center_distance,
    mse,
    pearson,
    probability_change,
    spearman,
    ssim,
    top_k_intersection,
)
from .statistics import Interval, Summary, bootstrap_interval, summarise

__all__ = [
    "Interval",
    "Summary",
    "aopc",
    "bootstrap_interval",
    "cosine",
    "dssim",
    "frame",
    "frame_distance",
    "gini",
    "kendall",
    "kl_divergence",
    "mass_center",
    "mass_center_distance",
    "mass_center_shift",
    "mse",
    "pearson",
    "pixel_flipping",
    "probability_change",
    "spearman",
    "ssim",
    "standardised_mse",
    "success_rate",
    "summarise",
    "swap_score",
    "top_k_intersection",
    "top_k_share",
]


def __dir__():
    return __all__
