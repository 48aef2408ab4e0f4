"""The two pictures of docs/theory.md, of a network with two inputs (figure 24 of Dombrowski et al. 2019).

    python docs/figures/theory.py                 # 20 seconds
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from xmanip_jax import geometry, smooth

FOLDER = Path(__file__).resolve().parent
START, END = (-0.55, -0.15), (0.35, -0.65)


def network():
    """f(x) = v . relu(W x), W of 50 x 2 and v of 50 numbers, uniform in [-1, 1]: Float[2] -> logits Float[1]."""
    rng = np.random.default_rng(0)
    weights, v = rng.uniform(-1, 1, (50, 2)), rng.uniform(-1, 1, 50)
    return lambda x: (v @ jax.nn.relu(weights @ x))[None]


def level_sets(sides=201):
    """Level sets of the network and of two softplus networks, and the normals along the one through START."""
    side = np.linspace(-1, 1, sides)
    plane = jnp.stack(jnp.meshgrid(side, side), -1)
    figure = Figure(figsize=(10.5, 3.8), layout="constrained", dpi=90)
    networks = {"relu": network(), "softplus, beta = 10": smooth.softplus(network(), 10.0),
                "softplus, beta = 1": smooth.softplus(network(), 1.0)}
    for axis, (title, f) in zip(figure.subplots(1, 3), networks.items(), strict=True):
        g = lambda x, f=f: f(x)[0]
        values = np.asarray(jax.jit(jax.vmap(jax.vmap(g)))(plane))
        axis.contour(side, side, values, 20, colors="0.8", linewidths=0.8, linestyles="solid")
        drawn = axis.contour(side, side, values, [float(g(jnp.array(START)))], colors="C0", linewidths=2.0,
                             linestyles="solid")
        line = max(drawn.allsegs[0], key=len)
        walked = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1)))
        points = np.stack([np.interp(np.linspace(0.03, 0.97, 14) * walked[-1], walked, line[:, i]) for i in (0, 1)], -1)
        normals = np.asarray(jax.vmap(jax.grad(g))(jnp.asarray(points)))
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        axis.quiver(*points.T, *normals.T, color="C3", width=0.006, scale=9)
        axis.set(title=title, aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    return figure


def turns(sharpness):
    """How far the normal turns between START and END, and what theorem 1 says of it, against beta."""
    def at(beta):
        g = lambda x: smooth.softplus(network(), beta)(x)[0]
        start = jnp.array(START)
        path = geometry.level_set_path(g, start, geometry.project_to_level_set(g, jnp.array(END), g(start)).point)
        found = geometry.normal_change_estimate(g, path.points, exact=True)
        return found.change, found.estimate, jnp.maximum(found.curvature[0], found.curvature[-1]) * found.length

    change, bound, ends = np.asarray(jax.jit(jax.vmap(lambda beta: jnp.stack(at(beta)), out_axes=1))(
        jnp.asarray(sharpness)))
    figure = Figure(figsize=(6.0, 3.6), layout="constrained", dpi=90)
    axis = figure.subplots()
    axis.loglog(sharpness, bound, "o-", markersize=3, label="largest curvature on the curve x length")
    axis.loglog(sharpness, ends, "s:", markersize=3, label="the same with the ends' curvature: no bound")
    axis.loglog(sharpness, change, "k", label="turn of the normal")
    axis.set(xlabel="beta: sharpness of softplus", ylabel="|| n(end) - n(start) ||")
    axis.legend(fontsize=9)
    return figure


def main():
    with jax.enable_x64(True):
        level_sets().savefig(FOLDER / "theory-level-sets.png")
        turns(np.geomspace(0.5, 100, 12)).savefig(FOLDER / "theory-bound.png")


if __name__ == "__main__":
    main()
