"""Networks with attention and their neighbours: equal to torchvision's and timm's, and explained as others are."""

import json
import pathlib
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from checks import check_derivatives
from common import zoo
from oracles.make_model_oracles import seeded_images, seeded_weight
from oracles.make_transformer_model_oracles import SMALL
from xmanip_jax import explain, rewrite
from xmanip_jax.models import (
    CCT,
    NETWORKS,
    ConvNeXt,
    MobileNetV3,
    Swin,
    ViT,
    WeightsError,
    dot_product_attention,
    explicit_attention,
    functional,
    load,
    load_weights,
)
from xmanip_jax.models.mobilenet import Inverted
from xmanip_jax.models.net import abstract
from xmanip_jax.models.weights import weight_shapes

pytestmark = pytest.mark.promotes("ranks", "types")

ORACLES = np.load(pathlib.Path(__file__).parent / "oracles/transformer_models.npz")
SHAPES = {name: {n: tuple(s) for n, s in shapes.items()} for name, shapes in json.loads(str(ORACLES["shapes"])).items()}
BUILD = {"vit": ViT, "deit": ViT, "convnext": ConvNeXt, "swin": Swin, "mobilenet": MobileNetV3, "cct": CCT,
         "cct_1": CCT}
# Networks of a few numbers, smooth: (shape of the image, how to build it).
TINY = {
    "vit": ((4, 4, 1), partial(ViT, image_size=4, patch_size=2, width=4, depth=2, heads=2, mlp=3, channels=1)),
    "convnext": ((8, 8, 1), partial(ConvNeXt, depths=(1, 1), widths=(3, 4), channels=1)),
    "swin": ((6, 5, 1), partial(Swin, patch_size=1, width=4, depths=(2, 1), heads=(2, 1), window=2, channels=1)),
    "mobilenet": ((5, 5, 3), partial(MobileNetV3, blocks=(Inverted(3, 8, 16, True, "relu", 1),), last=4,
                                     act=jax.nn.silu)),
    "cct": ((4, 4, 1), partial(CCT, image_size=4, convolutions=1, width=4, depth=1, heads=2, mlp=3, channels=1,
                               act=jax.nn.silu)),
}
EXPLANATIONS = {
    "gradient": explain.gradient(), "gradient_x_input": explain.gradient_x_input(),
    "integrated_gradients": explain.integrated_gradients(steps=2), "guided_backprop": explain.guided_backprop(),
    "smoothgrad": explain.smoothgrad(explain.gradient(), sigma=0.1, samples=2),
    "grad_cam": explain.grad_cam("features", relu=False),  # what is negative counts, too: these maps have few cells
}


def options_of(name):
    """Of the oracle's network."""
    options = SMALL[name][1]
    return options | {"blocks": [Inverted(*row) for row in options["blocks"]]} if "blocks" in options else options


@cache
def small(name, **options):
    """(net, params, state) of the oracle's network with its seeded weights; options: further ones."""
    weights = {n: seeded_weight(n, shape) for n, shape in SHAPES[name].items()}
    return functional(load_weights(abstract(partial(BUILD[name], **options_of(name), **options)), weights))


@cache
def tiny(name):
    """(net, params, state) of three classes with seeded weights."""
    module = abstract(partial(TINY[name][1], num_classes=3))
    weights = {n: seeded_weight(n, shape) for n, shape in weight_shapes(module).items()}
    return functional(load_weights(module, weights))


@partial(jax.jit, static_argnums=0)
def forward(net, params, state, x):
    return net.apply(params, state, x)


@pytest.mark.parametrize("name", BUILD)
def test_logits_equal_torchs_alone_and_batched(name):
    network, xs, expected = small(name), seeded_images(*SMALL[name][0]), ORACLES[name]
    for found, right in ((forward(*network, xs), expected), (forward(*network, xs[0]), expected[0])):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", BUILD)
def test_weights_have_torchs_names_and_shapes(name):
    if name != "deit":  # whose names are timm's, which are read and not written
        assert weight_shapes(abstract(partial(BUILD[name], **options_of(name)))) == SHAPES[name]


# As torchvision's and timm's documentation, and the authors of CCT, state them.
@pytest.mark.parametrize(("name", "parameters"), [
    ("vit_b_16", 86567656), ("deit_tiny", 5717416), ("convnext_tiny", 28589128), ("swin_t", 28288354),
    ("mobilenet_v3_large", 5483032), ("mobilenet_v3_small", 2542856), ("cct_7_3x1_32", 3760139),
    ("cct_2_3x2_32", 283723)])
def test_the_published_networks_have_as_many_parameters(name, parameters):
    shapes = weight_shapes(abstract(NETWORKS[name].build))
    assert sum(int(np.prod(shape)) for n, shape in shapes.items() if ".running_" not in n) == parameters


def test_older_names_and_derived_buffers_are_read_and_errors_tell_the_files_own_names():
    weights = {n: seeded_weight(n, shape) for n, shape in SHAPES["vit"].items()}
    older = {n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): w for n, w in weights.items()}
    assert older.keys() != weights.keys()
    build = partial(ViT, **options_of("vit"))
    _, params, _ = functional(load_weights(abstract(build), older))
    jax.tree.map(np.testing.assert_array_equal, params, small("vit")[1])
    for more in ({"norm.wrong": np.zeros(2)}, dict([next(item for item in older.items() if "linear_1" in item[0])])):
        with pytest.raises(WeightsError, match=f"fit ViT: unexpected {next(iter(more))}$"):
            load_weights(abstract(build), weights | more)
    swin = {n: seeded_weight(n, shape) for n, shape in SHAPES["swin"].items()}
    index = {n.replace("bias_table", "index"): np.zeros(256) for n in swin if n.endswith("bias_table")}
    assert len(index) == 4
    load_weights(abstract(partial(Swin, **options_of("swin"))), swin | index)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["vit", "swin", "cct"])
def test_attention_is_one_function_however_it_is_computed(name):
    x, weights = jnp.asarray(seeded_images(*SMALL[name][0])[0]), small(name)[1:]

    @partial(jax.jit, static_argnums=0)
    def first_and_second(net, weights, x):
        f = lambda x: net.apply(*weights, x)[1]
        return jax.value_and_grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))(x)

    expected = first_and_second(small(name)[0], weights, x)
    ways = [{"attend": dot_product_attention}, {"attend": jax.checkpoint(explicit_attention)}]
    for way in ways + [{"remat": True}] * (name == "vit"):
        for found, right in zip(first_and_second(small(name, **way)[0], weights, x), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize(("name", "layers", "act"), [
    ("vit", ["block1", "features", "block2"], {"gelu": 2}),
    ("convnext", ["stage1", "stage2", "features"], {"gelu": 4}), ("swin", ["stage1", "features"], {"gelu": 4}),
    ("mobilenet", ["block1", "block2", "block3", "block4", "features"],
     {"relu": 6, "hard_swish": 7, "hard_sigmoid": 3}),
    ("cct", ["block1", "block2", "features"], {"relu": 2, "gelu": 2})])
def test_layers_are_named_and_act_is_in_the_place_of_all_activations(name, layers, act):
    x = jnp.zeros(SMALL[name][0][1:])
    found, replaced = (rewrite.inspect(Partial(partial(net.apply, params, state)), x) for net, params, state in (
        small(name), small(name, act=jnp.tanh)))
    assert [layer.name for layer in found.layers] == layers and found.activations == act
    gates = act.get("hard_sigmoid", 0)
    assert replaced.activations == {"tanh": sum(act.values()) - gates} | ({"hard_sigmoid": gates} if gates else {})


CASES = [(name, e) for name in TINY for e in EXPLANATIONS]


@pytest.mark.sampled(12)
@pytest.mark.parametrize(("name", "e"), CASES)
def test_explanations_differentiate_twice_in_input_and_parameters(name, e, x64):
    (net, params, state), e, x = tiny(name), EXPLANATIONS[e], seeded_images(*TINY[name][0])
    params, state, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, state, x))
    maps = lambda params, x: e(lambda z: net.apply(params, state, z), x, 1, key=jax.random.key(0))
    weight = np.random.default_rng(1).normal(size=jax.eval_shape(maps, params, x).shape)
    check_derivatives(lambda given: jnp.sum(weight * maps(*given)), (params, x), rtol=1e-5)


@pytest.mark.sampled(8)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "e"), CASES)
def test_explanations_of_a_batch_are_those_of_each(name, e):
    (net, params, state), e = tiny(name), EXPLANATIONS[e]
    xs, key = jnp.asarray(seeded_images(2, *TINY[name][0])), jax.random.key(0)
    one = lambda x: e(lambda z: net.apply(params, state, z), x, 1, key=key)
    together, alone = jax.jit(jax.vmap(one))(xs), jax.jit(one)
    assert np.abs(together).max() > 0
    np.testing.assert_allclose(together, [alone(x) for x in xs], rtol=0, atol=1e-5 * np.abs(together).max())


def test_what_does_not_fit_is_refused():
    for build, said in ((partial(ViT, image_size=30, patch_size=4), "patches of 4 do not fill an image of 30"),
                        (partial(ViT, width=20, heads=3, mlp=4, depth=1), "a width of 20 does not divide into 3 heads"),
                        (partial(ConvNeXt, depths=(1, 2)), "got 2 depths and 4 widths"),
                        (partial(Swin, depths=(1, 2), heads=(3,)), "got 2 depths and 1 heads"),
                        (partial(MobileNetV3, blocks="huge"), "one of large, small, or the inverted residuals, got")):
        with pytest.raises(ValueError, match=said):
            abstract(build)
    for name in ("vit", "cct"):
        with pytest.raises(ValueError, match="for images of 32 x 32, got shape"):
            nnx.eval_shape(small(name)[0].apply, *small(name)[1:], jnp.zeros((32, 31, 3)))
    with pytest.raises(ValueError, match="resnet18 has no attention"):
        load("resnet18", {}, attend=dot_product_attention)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "results"), [("transformers", {"random"}), ("transformers_training", None)])
def test_the_experiments_run_quickly(name, results, tmp_path):
    script = pathlib.Path(__file__).parent.parent / "experiments" / "reproduce.py"
    done = subprocess.run([sys.executable, script, name, "--quick", "--out", tmp_path / "out"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert results is None or set(found["results"]) == results
    assert results or load_weights(abstract(zoo.TRANSFORMERS["mnist_vit"].build), tmp_path / "out/weights.safetensors")
