"""What the precision of products does to attacks, Hessian-vector products and certificates.

    python benchmarks/precision.py                # a few minutes on 2 quiet cores
    python benchmarks/precision.py --quick        # random weights and images, a smoke test

The small CNN of Boopathy et al. 2020 on MNIST, trained normally, softplus for its relus in Hessians. On CPU the
rounding of TF32 and bfloat16 is emulated: the operands of every product, those of derivatives included, are rounded to
the fraction of the type and multiplied in float32, which is what the hardware's units do up to the order of summation.
Each number is the median over images:

  map correlation     of the manipulated gradient map with its goal, judged in float32 (`attack.manipulation`, l-inf)
  prediction stays    the share of images, in float32
  gradient error      relative to float64
  product error       of a Hessian-vector product in a random direction, relative to float64
  outside             share of the entries of the gradient that leave the certified bounds of a ball of radius 0
                      (`certify.gradient_bounds` in float32): a certificate does not hold for coarser products

Writes results/precision.json and .md.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from xmanip_jax import attack, certify, explain, geometry, metrics, precision, smooth

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import files, inputs, report, runs

HEAD = ("precision", "map correlation", "prediction stays", "gradient error", "product error", "outside")
GRADIENT = explain.gradient()
BETA = 5.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure precisions."""

    count: int = 16
    steps: int = 100
    epsilon: float = 0.1
    quick: bool = False
    """Two images, two steps."""
    out: Path = Path(__file__).parent / "results" / "precision.json"


def subject(config):
    """(network, images Float[n, h, w, c])."""
    network = inputs.network("mnist_smallgap_normal", quick=config.quick)
    count = 2 if config.quick else config.count
    return network, (inputs.photographs if config.quick else inputs.standard)(network, count)[1]


def attacked(network, images, goal, config, kind):
    """(correlation with the goal, whether the prediction stays) for each image, in float32."""
    manipulate = attack.manipulation(GRADIENT, steps=2 if config.quick else config.steps, precision=kind,
                                     preprocess=network.preprocess, constraint=attack.linf(config.epsilon))
    found = manipulate(network.model, images, goal, key=jax.random.key(0))

    def judged(p, clean, goal):
        x, y = network.preprocess(p), network.model(network.preprocess(clean)).argmax()
        return (metrics.pearson(explain.heatmap(GRADIENT(network.model, x, y)), goal),
                network.model(x).argmax() == y)

    return jax.jit(jax.vmap(judged))(found.pixels, images, goal)


def derivatives(network, images, kind):
    """The gradient of the relu network's logit, and a product with the Hessian of its softplus."""
    def both(p, model):
        x = network.preprocess(p)
        v = jax.random.normal(jax.random.key(1), x.shape, jnp.float32).astype(x.dtype)
        return (GRADIENT(model, x, 0),
                geometry.hvp(lambda x: smooth.softplus(model, BETA)(x)[0], x, v))

    return geometry.sweep(both, images, network.model, precision=kind)


def double(tree):
    """In float64, where it is enabled."""
    wide = lambda v: jnp.asarray(v, jnp.float64) if jnp.issubdtype(jnp.result_type(v), jnp.floating) else v
    return jax.tree.map(wide, tree)


def outside(network, images, gradients):
    """The share of the gradient's entries that leave the bounds of a ball of radius 0, for each image."""
    def bounds(p, model):
        x = network.preprocess(p)
        return certify.gradient_bounds(model, certify.Box(x, x), 0)

    box = geometry.sweep(bounds, images, network.model)
    return ((gradients < box.lower) | (gradients > box.upper)).reshape(len(images), -1).mean(1)


def main(config: Config) -> None:
    network, images = subject(config)
    map_of = lambda p: explain.heatmap(GRADIENT(network.model, network.preprocess(p), network.model(
        network.preprocess(p)).argmax()))
    goal = np.roll(jax.jit(jax.vmap(map_of))(images), 1, axis=0)
    with jax.enable_x64(True):
        exact = derivatives(network._replace(model=double(network.model)), double(images), None)
    rows = []
    for kind in precision.PRECISIONS:
        correlation, stays = attacked(network, images, goal, config, kind)
        found = derivatives(network, images, kind)
        axes = tuple(range(1, images.ndim))
        errors = [np.sqrt(((a - b) ** 2).sum(axes) / (b**2).sum(axes)) for a, b in zip(found, exact, strict=True)]
        rows.append({"precision": kind, "map_correlation": float(np.median(correlation)),
                     "prediction_stays": float(np.mean(stays)), "gradient_error": float(np.median(errors[0])),
                     "product_error": float(np.median(errors[1])),
                     "outside": float(np.median(outside(network, images, found[0])))})
    files.write_json(config.out, {**runs.environment(), "emulated": jax.default_backend() == "cpu",
                                  "images": len(images), "rows": rows})
    cells = [[r["precision"], *(f"{v:.2g}" for v in list(r.values())[1:])] for r in rows]
    files.write_text(config.out.with_suffix(".md"), report.markdown(HEAD, cells))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
