"""Answers by hand for single lines that a mutation run found unguarded (docs/mutants.md)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from xmanip_jax import attack, certify, defend, explain, geometry, metrics, models, rewrite, smooth
from xmanip_jax.certify import Box, activations, affine, critical_points, forms, operator_norms
from xmanip_jax.certify.enclosure import enclose
from xmanip_jax.nonlinearities import Window
from xmanip_jax.rewrite.known import _PARAMETERS, KNOWN
from xmanip_jax.rewrite.operations import soft_window

KEY = jax.random.key(0)


def test_pixels_above_one_are_refused():
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got \[0.5, 1.5\]"):
        attack.random_search(explain.gradient(), epsilon=0.1)(jnp.ravel, np.float32([[0.5, 1.5]]), key=KEY)


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"samples": 0}])
def test_atex_needs_neighbours_and_samples(options):
    with pytest.raises(ValueError, match="neighbours and samples 1"):
        defend.atex(lambda x: x, radius=0.1, **options)


def test_a_tangent_space_has_no_more_dimensions_than_neighbours():
    with pytest.raises(ValueError, match="needs 1 <= dimensions <= neighbours"):
        defend.tangent_space(jnp.ones(9), jnp.ones((5, 9)), neighbours=2, dimensions=3)


def test_the_released_cure_is_a_root_with_slope_0_at_0():
    """The gradient (2 x, 0) of x^2 changes by 2 step along its sign; that of w x does not change."""
    cure = defend.cure(step=0.1, squared=False, output="logit")
    bend = lambda params, state, x: (params * x[0] ** 2)[None]
    np.testing.assert_allclose(cure(bend, 1.0, None, jnp.array([0.5, 0.25]), 0), 0.2, rtol=1e-5)
    straight = lambda params, state, x: params * x[:1]
    value, slope = jax.value_and_grad(lambda w: cure(straight, w, None, jnp.ones(2), 0))(3.0)
    assert value == 0 and slope == 0


def test_celu_bends_by_the_reciprocal_of_its_parameter():
    celu = critical_points.TABLE["celu"]
    assert (celu(0.5).steepest, celu(0.5).most_curved) == (1, 2)
    assert (celu(-1.0).steepest, celu(-1.0).most_curved) == (jnp.inf, jnp.inf)


def test_ranges_of_waves_end_at_one():
    """Beside a crest, where rounding outwards alone would pass it."""
    near = jnp.float32(jnp.pi / 2 - jnp.logspace(-5, -2, 9))
    for function, shift in ((jnp.sin, 0.0), (jnp.cos, jnp.float32(jnp.pi / 2))):
        crest, trough = (enclose(function, v, v, 4) for v in (near - shift, -near - shift))
        assert (crest.upper <= 1).all() and (trough.lower >= -1).all()


@pytest.mark.parametrize("rule", [lambda g: g * g, lambda g: jnp.maximum(g, 0)])
def test_derivative_rules_that_square_or_clip_are_refused(rule):
    function = jax.custom_vjp(jnp.tanh)
    function.defvjp(lambda z: (jnp.tanh(z), z), lambda z, g: (rule(g),))
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match="not linear in what it pulls back"):
        certify.gradient_bounds(lambda x: function(2 * x), Box(jnp.ones(3), jnp.ones(3)), 0)


def test_an_unknown_function_is_no_scale(x64):
    """The slope of sinh z cosh z is cosh 2 z, of which an affine reading would see the 1 at 0 alone."""
    curve = lambda z: jnp.sinh(z) * jnp.cosh(z)
    bounds = certify.gradient_bounds(lambda x: curve(x), Box(jnp.array([0.0]), jnp.array([1.0])), 0)
    assert bounds.lower[0] <= 1 and bounds.upper[0] >= jnp.cosh(2.0)


def test_shares_of_a_small_map():
    map = jnp.arange(12.0).reshape(3, 4) / 99
    np.testing.assert_allclose(certify.heatmap_bounds(Box(map, map)).lower, explain.heatmap(map), rtol=1e-4)


def test_forms_of_a_sum_and_of_relu(x64):
    """The sum of two inputs reaches as far as both; relu is its chord, halfway between the chord and the kink."""
    z = forms.inputs(jnp.array([0.0, -1.0]), jnp.array([1.0, 1.0]))
    added = lambda x: (x.sum()[None],)
    total, = forms.linear_map(added, added, added, [z], 0.0)
    np.testing.assert_allclose(forms.bounds(total), [[-1], [2]], atol=1e-12)
    relu = activations.known("relu", jax.nn.relu, critical_points.TABLE["relu"]())
    for ends, known in (((-1, 1), (0.5, 0.25, 0.25)), ((1, 2), (0.5, 1.5, 0)), ((-2, -1), (0, 0, 0))):
        lower, upper = (jnp.array([float(v)]) for v in ends)
        found = forms.value(relu, forms.inputs(lower, upper), lower, upper)
        np.testing.assert_allclose((found.slopes[0, 0], found.centre[0], found.radius[0]), known, atol=1e-12)


def test_a_sum_rounds_as_often_as_it_adds():
    x, total = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((5, 2), ()))
    assert affine.moved(lambda x: (x.sum(),), (x,), (total,)).terms == 10


def test_a_quotient_lies_between_its_corners(x64):
    bounds = certify.output_bounds(lambda x: x[:1] / x[1:], Box(jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])))
    np.testing.assert_allclose(bounds, [[0.25], [1]], rtol=1e-9)
    assert bounds.lower[0] <= 0.25 and bounds.upper[0] >= 1


def test_the_norm_of_a_layer_is_that_of_its_kernel_rounded_up():
    """All ones, 3x3: the sum of all weights, attained by a constant."""
    kernel, x = jnp.ones((3, 3, 1, 1), jnp.float32), jnp.ones((1, 32, 32, 1), jnp.float32)
    found = certify.convolution_norm(kernel, (32, 32))
    assert 9 < found < 9 * (1 + 1e-4)
    layer = lambda x: lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    params = jax.make_jaxpr(layer)(x).eqns[0].params
    # Another torus has other frequencies: a kernel that sums to less than its norm tells them apart.
    signed = kernel.at[1].set(-1.0)
    assert operator_norms.layer_norm(params, signed, x.shape) == certify.convolution_norm(signed, (32, 32))


def test_normals_turn_by_the_chord():
    """A third of a quarter turn on a circle: 2 sin(15 degrees)."""
    angle = jnp.linspace(0, jnp.pi / 6, 9)
    found = geometry.normal_change_estimate(lambda x: (x**2).sum(), jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1))
    np.testing.assert_allclose(found.change, 2 * np.sin(np.pi / 12), rtol=1e-4)


def test_constant_maps_are_alike():
    assert metrics.dssim(jnp.full((8, 8), 3.0), jnp.full((8, 8), 5.0)) == 0


def test_frames_and_shares_of_maps_that_are_not_square():
    assert metrics.frame((5, 20)).sum() == 5 * 20 - 3 * 18  # as wide as the shortest side says
    original = jnp.zeros((2, 10)).at[0, :2].set(1.0)
    np.testing.assert_allclose(metrics.top_k_share(original / 2, original), 0.5)  # two pixels, a tenth of all


def test_preprocessing_standardises_by_imagenets_numbers():
    scale, shift = (np.array(v) for v in (models.NETWORKS["resnet50"].scale, models.NETWORKS["resnet50"].shift))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(scale * mean + shift, 0, atol=1e-12)
    np.testing.assert_allclose(scale * (mean + std) + shift, 1)


@pytest.mark.parametrize("name", ["squeezenet1_1", "cifar10_resnet20", "efficientnet_lite0", "small_cnn", "resnet18"])
def test_networks_have_as_many_logits_as_their_table_says(name):
    spec = models.NETWORKS[name]
    logits = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0))(jnp.zeros(spec.input_shape)))
    assert logits.shape == (spec.num_classes,)


def test_the_smallest_vgg_and_the_lcnn_have_logits():
    shape = lambda build, x: nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))(x)).shape
    assert shape(partial(models.VGG16, input_size=32, num_classes=7), jnp.zeros((32, 32, 3))) == (7,)
    assert shape(models.SmallLCNN, jnp.zeros((28, 28, 1))) == (10,)


def test_a_batch_is_pooled_image_by_image():
    x = jax.random.normal(KEY, (2, 5, 5, 3))
    pool = lambda x: models.max_pool(x, 3, 2, padding=1)
    np.testing.assert_array_equal(pool(x), jnp.stack([pool(x[0]), pool(x[1])]))


def test_a_function_of_two_relus_is_smoothed_at_both_kinks():
    z = jnp.linspace(-2, 2, 9)
    found = smooth.softplus(lambda z: jax.nn.relu(z) - 0.5 * jax.nn.relu(z - 1), 5.0)(z)
    wanted = smooth.softplus_beta(z, 5.0) - 0.5 * smooth.softplus_beta(z - 1, 5.0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_division_by_a_number_is_multiplication_by_its_reciprocal():
    """The table says (z + |z|) / 2, of which one half is no part of what is left."""
    half = lambda z: 0.5 * (z + jnp.abs(z))
    assert rewrite.replace(half, {"relu": jnp.square})(jnp.array([2.0]))[0] == 4


@pytest.mark.parametrize("name", KNOWN)
def test_a_row_of_the_table_is_one_function(name):
    """All its spellings, and what takes its place where the smooth relu is relu itself."""
    row, z = KNOWN[name], jnp.linspace(-8, 8, 65)
    parameters = {"clip": (-1.0, 2.0)}.get(name, (0.3,))
    given = parameters if _PARAMETERS.get(name) else ()
    functions = list(row.spellings)
    if row.surrogate is not None:
        functions.append(partial(row.surrogate, jax.nn.relu))
    several = jax.jit(lambda z: [f(z, *given) for f in functions])(z)
    for values in several:
        np.testing.assert_allclose(values, several[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, function", [
    ("relu", lambda z: jnp.where(z <= 0, 0, z)), ("relu", lambda z: jnp.where(z < 0, 0, z)),
    ("elu", lambda z: jnp.where(z > 0, z, jnp.expm1(z))), ("elu", lambda z: jnp.where(z > 0, z, jnp.exp(z) - 1))])
def test_spellings_with_conditions_are_known(name, function):
    assert rewrite.inspect(function, jnp.ones(3)).activations == {name: 1}


def test_which_inputs_of_a_layer_are_nonnegative():
    """After a relu; after a pooling of one; not where one half of what is joined may be negative."""
    w = jax.random.normal(KEY, (32, 3))
    bodies = {"relu": (True, lambda x: jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)])),
              "pooled": (True, lambda x: jnp.tile(models.max_pool(jax.nn.relu(x), 2, 2), (2, 2, 2))),
              "pooled input": (False, lambda x: jnp.tile(models.max_pool(x, 2, 2), (2, 2, 2))),
              "half": (False, lambda x: jnp.concatenate([jax.nn.relu(x), x]))}
    for name, (nonnegative, body) in bodies.items():
        seen = []

        def rule(relevance, layer, seen=seen):
            seen.append(layer.nonnegative)
            return explain.epsilon()(relevance, layer)

        explain.lrp(dense=rule, first=rule)(lambda x, body=body: body(x).ravel() @ w, jnp.ones((4, 4, 1)), 0)
        assert seen == [nonnegative], name


def test_the_hard_case_of_a_trust_region_goes_to_the_sphere():
    """Multiplier 2, so that the step is -1/3 along the first axis, and the rest of the radius along the lowest one."""
    found = geometry.trust_region_step(jnp.array([1.0, 0.0]), jnp.diag(jnp.array([1.0, -2.0])), 3.0)
    assert found.hard
    np.testing.assert_allclose(jnp.abs(found.step), [1 / 3, (9 - 1 / 9) ** 0.5], rtol=1e-5)


def test_a_scale_is_affine(x64):
    """Multiplication by 3 is an affine map, not an elementwise function of which only ranges are known."""
    x = jnp.array([1.0])
    stage, *_ = rewrite.stages(lambda x: 3 * x, x).stages
    part = affine.affine(stage, (jax.ShapeDtypeStruct(x.shape, x.dtype),))
    np.testing.assert_allclose(part.linear(x)[0], 3)


def test_the_window_of_a_soft_pooling_is_read_from_its_body():
    window = Window((3, 2, 1), (2, 1, 1), ((1, 0), (0, 1), (0, 0)))
    eqn, = jax.make_jaxpr(lambda z: smooth.soft_max_pool(z, jnp.float32(3), window))(jnp.ones((6, 5, 2))).eqns
    assert soft_window(eqn) == window
