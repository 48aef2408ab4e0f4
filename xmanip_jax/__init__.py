"""Manipulate, measure and defend the explanations of neural networks, in JAX.

`import xmanip_jax` needs jax, optax and numpy only; `xmanip_jax.models`, `.data`, `.checkpoint` and `.plot` need the
extras of the same names and are imported on their own.
"""

__version__ = "0.1.0"
