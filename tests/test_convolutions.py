"""Convolutions in the form that XLA on CPU runs fast in loops: the same numbers, from every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax.rewrite.convolutions import ordered

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
FORMS = {  # shapes of images and kernel, dimension numbers, options
    "channels first": ((2, 4, 7, 6), (6, 4, 3, 2), ("NCHW", "OIHW", "NCHW"), {}),
    "mixed": ((7, 6, 2, 4), (3, 6, 4, 2), ("HWNC", "HOIW", "CHNW"), {"window_strides": (2, 1)}),
    "transposed": ((2, 5, 6, 4), (3, 3, 5, 4), ("NHWC", "HWOI", "NHWC"), {"lhs_dilation": (2, 2)}),
    "atrous": ((2, 9, 9, 4), (3, 3, 4, 5), ("NHWC", "HWIO", "NCHW"), {"rhs_dilation": (2, 3)}),
    "groups": ((2, 6, 7, 6), (4, 3, 3, 3), ("NCHW", "OIHW", "NHWC"), {"feature_group_count": 2}),
    "groups of images": ((4, 3, 7, 6), (6, 3, 3, 3), ("NCHW", "OIHW", "NCHW"), {"batch_group_count": 2}),
    "one place": ((2, 4, 9), (5, 4, 3), ("NCW", "OIW", "NCW"), {}),
    "three places": ((2, 4, 5, 4, 3), (5, 4, 3, 2, 2), ("NCDHW", "OIDHW", "NDHWC"), {}),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_computes_the_same(name):
    of_images, of_kernel, told, options = FORMS[name]
    images, kernel = (RNG.normal(size=shape) for shape in (of_images, of_kernel))
    n = len(of_images) - 2
    options = {"window_strides": (1,) * n, "padding": [(1, 2)] * n, "dimension_numbers": told, **options}
    f = lambda x, k: {"out": jax.lax.conv_general_dilated(x, k, **options)}
    eqns = jax.make_jaxpr(ordered(f))(images, kernel).eqns
    form = next(eqn.params["dimension_numbers"] for eqn in eqns if eqn.primitive.name == "conv_general_dilated")
    places, last = range(1, n + 1), n + 1
    assert form.lhs_spec == form.out_spec == (0, last, *places) and form.rhs_spec == (last, last - 1, *range(last - 1))
    np.testing.assert_allclose(ordered(f)(images, kernel)["out"], f(images, kernel)["out"], atol=1e-12)


def test_inside_jit_and_beside_what_stays_as_it_is():
    kernel = RNG.normal(size=(4, 4, 3))
    convolve = jax.jit(lambda x: jax.lax.conv_general_dilated(x, kernel, (1,), "SAME"))
    kept = jax.checkpoint(convolve)
    f = lambda x: jax.nn.relu(convolve(x)) + kept(x) + jax.lax.fori_loop(0, 2, lambda i, v: jnp.sin(v), x)
    x = RNG.normal(size=(1, 4, 9))
    np.testing.assert_allclose(ordered(f)(x), f(x), atol=1e-12)
    forms = [str(eqn.params["dimension_numbers"]) for eqn in jax.make_jaxpr(ordered(f))(x).eqns
             if eqn.primitive.name == "conv_general_dilated"]
    assert len(forms) == 1 and "lhs_spec=(0, 2, 1)" in forms[0]
