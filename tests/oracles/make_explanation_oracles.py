"""Writes explanations.npz: maps by Captum and zennit, which tests/test_explanation_oracles.py compares to.

Run in an environment of its own:  pip install torch captum zennit;  python tests/oracles/make_explanation_oracles.py
(made with torch 2.13.0, captum 0.9.0 and zennit 0.5.1 on a CPU. zennit is LGPL-3: this script runs it, nothing else
imports it. torchvision is not needed: a stub stands in for what zennit imports of it.)

Arrays are float64 in JAX's layout: images and maps channels-last, kernels HWIO or [in, out]. Maps have the axes
[image, target, h, w, c] (Grad-CAM: no c) and are rounded to 29 bits (1e-9) so that they compress. Keys:

  NETWORK/   images logits targets (classes) direction (over the logits) low high (the box of z_box) weights/NAME
  NETWORK/captum/METHOD  NETWORK/zennit/RULE  NETWORK/zennit/RULE/difference (explains `direction`; no target axis)

Captum. Everything is signed and explains the logit. Integrated gradients are riemann_right with 30 steps and baseline
0: x * mean of the gradients at k/30 x, k = 1..30 (to 5e-8: the step sizes are float32). Guided backpropagation passes
relu(g) * (z > 0) at each relu z, deconvolution relu(g) whatever z. LayerGradCam is the sum over channels of activation
* spatial mean of its gradient, under "grad_cam/relu/" followed by a relu. Captum hooks modules: `strided`, whose relus
are functional or reused, is hooked in a form with one module per relu; its plain gradients come from the original
form.

zennit. Relevance starts as one-hot * logits (direction * logits). A rule holds for all convolutions and dense layers,
a "first" rule for the first convolution with epsilon 1e-6 elsewhere. Every denominator is z + s * sign(z) with
sign(0) = +1; s = 1e-6 by default, in epsilon s = eps. relu passes relevance on. The residual sum (stack, then
zennit.layer.Sum) and average pools split in proportion to their inputs (rule Norm), here with s = 1e-12, because
zennit adds s to the mean of a pool, where others add it to the sum. Max-pooling and flatten have no rule: the gradient
routes, the winner takes all. BatchNorm merges into the convolution before it; its epsilon is put into torch's
running_var, because zennit 0.5.1 leaves it in the norm that remains. With + and - for the positive and negative parts,
each rule's z is:

  epsilon     xw + b
  z_plus      x+w+ + x-w- + b+; the rule equals alpha_beta(1, 0)
  alpha_beta  alpha as z_plus; beta x+w- + x-w+ + b- (negative, so is its stabilizer; +s where it is 0)
  gamma       where xw + b > 0: x+(w + g w+) + x-(w + g w-) + b + g b+;
              where xw + b < 0: x+(w + g w-) + x-(w + g w+) + b + g b-; where xw + b = 0 relevance is lost
  z_box       xw - low w+ - high w-; biases cancel (b - b+ - b-); padding holds 0, not low or high, and gets nothing
  w_square    the sum of the w^2 that do not meet padding; zennit adds b^2 unless told otherwise: left out here
              (zero_params="bias"), as in the rule's paper
  flat        w_square with ones for weights, never a bias

The bias's share of a denominator is relevance lost. "_no_bias" leaves it out (zero_params="bias"), "_stabilizer_0.1"
shows where s goes; both are there for `plain` alone, and its first image.
"""

import pathlib
import sys
import zlib
from unittest import mock

import numpy as np

STEPS, BN_EPS, SUM_STABILIZER = 30, 1e-5, 1e-12
CONV_NORM = ("scale", "bias", "mean", "var")

# network -> shape of the images, and the weights' shapes in JAX's layout
SHAPES = {
    "plain": ((12, 12, 3), {
        "conv1/kernel": (3, 3, 3, 6), "conv1/bias": (6,), "conv2/kernel": (3, 3, 6, 8), "conv2/bias": (8,),
        "dense1/kernel": (32, 10), "dense1/bias": (10,), "dense2/kernel": (10, 5), "dense2/bias": (5,)}),
    "residual": ((7, 6, 3), {
        "conv1/kernel": (3, 3, 3, 6), "conv1/bias": (6,),
        "conv2/kernel": (3, 3, 6, 6), **{f"norm2/{n}": (6,) for n in CONV_NORM},
        "conv3/kernel": (3, 3, 6, 6), "conv3/bias": (6,), **{f"norm3/{n}": (6,) for n in CONV_NORM},
        "dense/kernel": (6, 5), "dense/bias": (5,)}),
    "strided": ((9, 7, 3), {
        "conv1/kernel": (3, 3, 3, 8), "conv2/kernel": (3, 3, 4, 8), "conv3/kernel": (2, 2, 8, 6),
        "dense/kernel": (54, 5)}),
}
# (network, dense layer) -> h, w, c of the image that is flattened into it
FLATTENED = {("plain", "dense1"): (2, 2, 8), ("strided", "dense"): (3, 3, 6)}
# Rules that are stored for one image only.
VARIANTS = ("no_bias", "stabilizer_0.1")
# network -> layers of Grad-CAM
CAM_LAYERS = {"plain": ("relu1", "conv2"), "residual": ("relu3",), "strided": ("relu2",)}


def seeded_weight(rng, name, shape):
    if name.endswith("kernel"):
        return rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
    if name.endswith("var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("scale"):
        return rng.uniform(0.5, 1.5, shape) * np.resize((1, -1, 1), shape)
    return 0.3 * rng.normal(size=shape)


def seeded(name):
    """Weights and two signed images inside the box [low, high]."""
    image, shapes = SHAPES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = {n: seeded_weight(rng, n, shape) for n, shape in shapes.items()}
    low, high = (np.array((-2.0, -1.5, -2.2)), np.array((2.2, 1.8, 2.5))) if name == "plain" else (-2.0, 2.5)
    return weights, rng.uniform(low, high, (2, *image)), np.asarray(low), np.asarray(high)


def modules(torch, zennit):
    """network -> class of its torch module; `strided` also in a form with one module per relu."""
    nn = torch.nn

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.relu1, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()
            self.dense1, self.relu3, self.dense2 = nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 5)

        def forward(self, x):
            x = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x)))))
            return self.dense2(self.relu3(self.dense1(x.flatten(1))))

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
            self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=0)
            self.relu2 = nn.ReLU()
            self.conv3, self.norm3 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0)
            self.sum, self.relu3 = zennit.layer.Sum(-1), nn.ReLU()
            self.pool, self.dense = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

        def forward(self, x):
            x = self.relu1(self.conv1(x))
            y = self.norm3(self.conv3(self.relu2(self.norm2(self.conv2(x)))))
            x = self.relu3(self.sum(torch.stack([x, y], -1)))
            return self.dense(self.pool(x).flatten(1))

    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.relu = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.ReLU()
            self.conv2, self.pool = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.AvgPool2d(2)
            self.conv3, self.dense = nn.Conv2d(8, 6, 2, padding=1, bias=False), nn.Linear(54, 5, bias=False)

        def forward(self, x):
            x = self.pool(self.relu(self.conv2(nn.functional.relu(self.conv1(x)))))
            return self.dense(self.relu(self.conv3(x)).flatten(1))

    class StridedHooked(Strided):
        def __init__(self):
            super().__init__()
            self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            x = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
            return self.dense(self.relu3(self.conv3(x)).flatten(1))

    return {"plain": (Plain, Plain), "residual": (Residual, Residual), "strided": (Strided, StridedHooked)}


def torch_weight(array, flattened):
    """A weight in torch's layout; rows that take a flattened image go from the order h, w, c to c, h, w."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2:
        return array.reshape(*flattened, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array


def load(torch, module, name, weights):
    kinds = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {}
    for n, array in weights.items():
        layer, kind = n.split("/")
        array = array + BN_EPS if kind == "var" else array
        array = torch_weight(array, FLATTENED.get((name, layer), (1, 1, array.shape[0])))
        state[f"{layer}.{kinds[kind]}"] = torch.from_numpy(array.copy())
    net = module().double().eval()
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected and all(n.endswith("num_batches_tracked") for n in missing), (missing, unexpected)
    return net.requires_grad_(False)


def channels_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def per_target(attribute, targets):
    """[image, target, ...] from attribute(one target for all images)."""
    return np.stack([channels_last(attribute(int(t))) for t in targets], 1)


def captum_maps(captum, net, hooked, x, targets, layers):
    attr = captum.attr
    ig = lambda t: attr.IntegratedGradients(net).attribute(x, 0.0, t, n_steps=STEPS, method="riemann_right")
    maps = {
        "saliency": per_target(lambda t: attr.Saliency(net).attribute(x, t, abs=False), targets),
        "input_x_gradient": per_target(lambda t: attr.InputXGradient(net).attribute(x, t), targets),
        "integrated_gradients": per_target(ig, targets),
        "guided_backprop": per_target(lambda t: attr.GuidedBackprop(hooked).attribute(x, t), targets),
        "deconvolution": per_target(lambda t: attr.Deconvolution(hooked).attribute(x, t), targets),
    }
    for layer in layers:
        cam = attr.LayerGradCam(hooked, getattr(hooked, layer))
        for key, relu in (("grad_cam/", False), ("grad_cam/relu/", True)):
            attribute = lambda t, cam=cam, relu=relu: cam.attribute(x, t, relu_attributions=relu)
            maps[key + layer] = per_target(attribute, targets)[..., 0]
    return maps


def rules(zennit, name, low, high):
    """key -> (rule of all layers, rule of the first convolution or None)."""
    r = zennit.rules
    every = {
        "epsilon_1e-6": r.Epsilon(1e-6), "epsilon_0.1": r.Epsilon(0.1), "z_plus": r.ZPlus(),
        "alpha_beta_2_1": r.AlphaBeta(2, 1), "alpha_beta_1_0": r.AlphaBeta(1, 0), "gamma_0.25": r.Gamma(0.25)}
    first = {
        "first_z_box": r.ZBox(low, high), "first_w_square": r.WSquare(zero_params="bias"), "first_flat": r.Flat()}
    if name == "plain":
        s, no_bias = {"stabilizer": 0.1}, {"zero_params": "bias"}
        every |= {
            "z_plus_no_bias": r.ZPlus(**no_bias), "alpha_beta_2_1_no_bias": r.AlphaBeta(2, 1, **no_bias),
            "z_plus_stabilizer_0.1": r.ZPlus(**s), "alpha_beta_2_1_stabilizer_0.1": r.AlphaBeta(2, 1, **s),
            "gamma_0.25_stabilizer_0.1": r.Gamma(0.25, **s)}
        first |= {
            "first_z_box_stabilizer_0.1": r.ZBox(low, high, **s),
            "first_w_square_stabilizer_0.1": r.WSquare(zero_params="bias", **s),
            "first_flat_stabilizer_0.1": r.Flat(**s)}
    return {k: (rule, None) for k, rule in every.items()} | {k: (r.Epsilon(1e-6), rule) for k, rule in first.items()}


def relevance(torch, zennit, net, x, direction, rule, first):
    """The relevance of the input when direction * logits is redistributed."""
    types, norm = zennit.types, zennit.rules.Norm(SUM_STABILIZER)
    layers = [(types.Activation, zennit.rules.Pass()), (zennit.layer.Sum, norm), (types.AvgPool, norm),
              (types.Linear, rule)]  # zennit's Linear includes the convolutions
    firsts = [(types.Convolution, first)] if first else []
    composite = zennit.composites.SpecialFirstLayerMapComposite(
        layers, firsts, canonizers=[zennit.canonizers.SequentialMergeBatchNorm()])
    x = x.clone().requires_grad_()
    with composite.context(net) as hooked:
        logits = hooked(x)
        return torch.autograd.grad(logits, x, direction * logits.detach())[0]


def zennit_maps(torch, zennit, name, net, x, targets, direction, low, high):
    one_hot = torch.eye(5, dtype=torch.float64)
    box = [torch.from_numpy(v.copy()).reshape(1, -1, 1, 1) if v.ndim else float(v) for v in (low, high)]
    maps = {}
    for key, pair in rules(zennit, name, *box).items():
        images = x[:1] if key.endswith(VARIANTS) else x
        explained = lambda t, pair=pair, images=images: relevance(torch, zennit, net, images, one_hot[t], *pair)
        maps[key] = per_target(explained, targets)
    for key in ("epsilon_1e-6", "z_plus"):
        pair = rules(zennit, name, *box)[key]
        maps[key + "/difference"] = channels_last(
            relevance(torch, zennit, net, x, torch.from_numpy(direction), *pair))
    return maps


def shorten(a):
    """29 significant bits: the zero bytes that follow compress."""
    mantissa, exponent = np.frexp(a)
    return np.ldexp(np.round(mantissa * 2.0**29) / 2.0**29, exponent)


def network_oracles(torch, captum, zennit, name):
    weights, images, low, high = seeded(name)
    original, hooked = (load(torch, module, name, weights) for module in modules(torch, zennit)[name])
    x = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    logits = original(x).numpy()
    np.testing.assert_array_equal(hooked(x).numpy(), logits)
    targets = np.array((1, 3))
    direction = np.eye(5)[targets[0]] - np.eye(5)[targets[1]]
    maps = {f"captum/{k}": v for k, v in
            captum_maps(captum, original, hooked, x, targets, CAM_LAYERS[name]).items()}
    maps |= {f"zennit/{k}": v for k, v in
             zennit_maps(torch, zennit, name, hooked, x, targets, direction, low, high).items()}
    np.testing.assert_array_equal(hooked(x).numpy(), logits)  # hooks and merges are undone
    given = {"images": images, "logits": logits, "targets": targets, "direction": direction, "low": low, "high": high}
    return (given | {f"weights/{n}": w for n, w in weights.items()}
            | {k: shorten(v) for k, v in maps.items()})


def main():
    stubs = ("torchvision", "torchvision.models", "torchvision.models.resnet", "torchvision.models.vgg")
    sys.modules.update({stub: mock.MagicMock() for stub in stubs})
    import captum.attr
    import torch
    import zennit

    torch.set_num_threads(1)
    oracles = {}
    for name in SHAPES:
        found = network_oracles(torch, captum, zennit, name)
        for key, value in found.items():
            assert np.isfinite(value).all(), (name, key)
            oracles[f"{name}/{key}"] = value
    np.savez_compressed(pathlib.Path(__file__).with_name("explanations.npz"), **oracles)


if __name__ == "__main__":
    main()
