"""How alike two maps are, and how sure a number over many images is.

Every measure is a pure function of ONE pair of maps: batch it with jax.vmap, compile it with jax.jit.
"""

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
    "bootstrap_interval",
    "cosine",
    "gini",
    "kendall",
    "kl_divergence",
    "mass_center",
    "mass_center_distance",
    "mse",
    "pearson",
    "probability_change",
    "spearman",
    "ssim",
    "summarise",
    "top_k_intersection",
]
