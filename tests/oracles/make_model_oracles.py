"""Writes models.npz: logits and poolings by PyTorch, which the tests of xmanip_jax.models compare to.

Run with torch, safetensors and the data folder:  python tests/oracles/make_model_oracles.py DATA EFFICIENTNET_PTH

The networks are written out here once more, from their papers and torchvision's names, as plain functions of named
weights. Seeded weights come from `seeded_weight`, so that a test needs no data; trained ones from the data folder.
"""

import json
import pathlib
import sys
import zlib

import numpy as np

# (size, window, stride, ceil, padding)
POOLINGS = ((7, 3, 2, True, 0), (7, 3, 2, False, 0), (8, 3, 2, True, 0), (6, 2, 2, False, 0), (5, 2, 2, True, 0),
            (4, 1, 2, True, 0), (5, 2, 3, True, 0), (4, 1, 3, True, 0), (7, 3, 2, False, 1), (8, 3, 2, False, 1),
            (8, 3, 2, True, 1), (5, 2, 2, True, 1), (4, 3, 3, True, 1), (6, 5, 3, False, 2))


def seeded_weight(name, shape):
    """A weight that depends on nothing but its torch name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 0.1 if len(shape) == 1 else (2 / np.prod(shape[1:])) ** 0.5
    return (scale * rng.normal(size=shape)).astype(np.float32)


def seeded_images(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def tied_image(size):
    """Small integers: nearly every pooling window has ties. Negative: padding with zeros would show."""
    return np.random.default_rng(size).integers(-3, 0, (size, size + 1, 2)).astype(np.float32)


def networks(torch, weight):
    """name -> forward function on NCHW tensors; weight(name, shape) gives the named weights."""
    F = torch.nn.functional

    def conv(x, name, out, size, stride=1, padding=0, groups=1, bias=True):
        kernel = weight(f"{name}.weight", (out, x.shape[1] // groups, size, size))
        return F.conv2d(x, kernel, weight(f"{name}.bias", (out,)) if bias else None, stride, padding, groups=groups)

    def norm(x, name, eps=1e-5):
        c = (x.shape[1],)
        mean, var = weight(f"{name}.running_mean", c), weight(f"{name}.running_var", c)
        return F.batch_norm(x, mean, var, weight(f"{name}.weight", c), weight(f"{name}.bias", c), eps=eps)

    def dense(x, name, out, bias=True):
        kernel = weight(f"{name}.weight", (out, x.shape[1]))
        return F.linear(x, kernel, weight(f"{name}.bias", (out,)) if bias else None)

    def same(x, size, stride):
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[2:]]
        return F.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))

    def squeezenet1_1(x):
        x = F.relu(conv(x, "features.0", 64, 3, 2))
        for i, s, e in ((3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128), (9, 48, 192), (10, 48, 192),
                        (11, 64, 256), (12, 64, 256)):
            if i in (3, 6, 9):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x, fire = F.relu(conv(x, f"features.{i}.squeeze", s, 1)), f"features.{i}.expand"
            x = torch.cat([F.relu(conv(x, fire + "1x1", e, 1)), F.relu(conv(x, fire + "3x3", e, 3, 1, 1))], 1)
        return F.relu(conv(x, "classifier.1", 1000, 1, 1, 1)).mean((2, 3))

    def cifar_resnet(x, blocks):
        x = F.relu(norm(conv(x, "conv1", 16, 3, 1, 1, bias=False), "bn1"))
        for stage, out in enumerate((16, 32, 64), 1):
            for i in range(blocks):
                name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
                y = F.relu(norm(conv(x, name + ".conv1", out, 3, stride, 1, bias=False), name + ".bn1"))
                y = norm(conv(y, name + ".conv2", out, 3, 1, 1, bias=False), name + ".bn2")
                if stride == 2:
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, out // 4, out // 4))
                x = F.relu(x + y)
        return dense(x.mean((2, 3)), "linear", 10)

    def efficientnet_lite0(x):
        bn, act = lambda x, name: norm(x, name, 1e-3), F.relu6
        x, block = act(bn(conv(same(x, 3, 2), "_conv_stem", 32, 3, 2, bias=False), "_bn0")), 0
        for repeats, k, s, e, out in ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
                                      (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)):
            for i in range(repeats):
                name, stride, y = f"_blocks.{block}.", s if i == 0 else 1, x
                if e > 1:
                    y = act(bn(conv(y, name + "_expand_conv", e * x.shape[1], 1, bias=False), name + "_bn0"))
                wide = y.shape[1]
                y = conv(same(y, k, stride), name + "_depthwise_conv", wide, k, stride, groups=wide, bias=False)
                y = bn(conv(act(bn(y, name + "_bn1")), name + "_project_conv", out, 1, bias=False), name + "_bn2")
                x, block = (x + y if i else y), block + 1
        x = act(bn(conv(x, "_conv_head", 1280, 1, bias=False), "_bn1"))
        return dense(x.mean((2, 3)), "_fc", 1000)

    def small_cnn(x):
        x = conv(same(x, 4, 2), "conv1", 16, 4, 2)
        x = conv(same(F.relu(x), 4, 2), "conv2", 32, 4, 2)
        x = conv(same(F.relu(x), 7, 1), "conv3", 100, 7)
        return dense(x.mean((2, 3)), "linear", 10, bias=False)

    def vgg(x, counts):
        layer = 0
        for count, out in zip(counts, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                x, layer = F.relu(conv(x, f"features.{layer}", out, 3, 1, 1)), layer + 2
            x, layer = F.max_pool2d(x, 2), layer + 1
        x = F.relu(dense(x.flatten(1), "classifier.0", 4096))
        return dense(F.relu(dense(x, "classifier.3", 4096)), "classifier.6", 10)

    def resnet(x, counts, bottleneck):
        x = F.relu(norm(conv(x, "conv1", 64, 7, 2, 3, bias=False), "bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, count in enumerate(counts):
            for i in range(count):
                name, stride, width = f"layer{stage + 1}.{i}", 2 if stage and not i else 1, 64 * 2**stage
                if bottleneck:  # (channels, kernel size, stride)
                    convolutions = ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1))
                else:
                    convolutions = ((width, 3, stride), (width, 3, 1))
                y = x
                for n, (out, size, step) in enumerate(convolutions, 1):
                    y = F.relu(y) if n > 1 else y
                    y = norm(conv(y, f"{name}.conv{n}", out, size, step, size // 2, bias=False), f"{name}.bn{n}")
                if y.shape != x.shape:
                    name += ".downsample."
                    x = norm(conv(x, name + "0", y.shape[1], 1, stride, bias=False), name + "1")
                x = F.relu(x + y)
        return dense(x.mean((2, 3)), "fc", 10)

    def densenet121(x):
        x = F.relu(norm(conv(x, "features.conv0", 64, 7, 2, 3, bias=False), "features.norm0"))
        x = F.max_pool2d(x, 3, 2, 1)
        for block, count in enumerate((6, 12, 24, 16), 1):
            for i in range(1, count + 1):
                name = f"features.denseblock{block}.denselayer{i}."
                y = conv(F.relu(norm(x, name + "norm1")), name + "conv1", 128, 1, bias=False)
                y = conv(F.relu(norm(y, name + "norm2")), name + "conv2", 32, 3, 1, 1, bias=False)
                x = torch.cat([x, y], 1)
            if block < 4:
                name = f"features.transition{block}."
                x = conv(F.relu(norm(x, name + "norm")), name + "conv", x.shape[1] // 2, 1, bias=False)
                x = F.avg_pool2d(x, 2)
        return dense(F.relu(norm(x, "features.norm5")).mean((2, 3)), "classifier", 10)

    return {"squeezenet1_1": squeezenet1_1, "cifar10_resnet20": lambda x: cifar_resnet(x, 3),
            "cifar10_resnet56": lambda x: cifar_resnet(x, 9), "efficientnet_lite0": efficientnet_lite0,
            "small_cnn": small_cnn,
            "vgg16": lambda x: vgg(x, (2, 2, 3, 3, 3)), "vgg19": lambda x: vgg(x, (2, 2, 4, 4, 4)),
            "resnet18": lambda x: resnet(x, (2, 2, 2, 2), bottleneck=False),
            "resnet50": lambda x: resnet(x, (3, 4, 6, 3), bottleneck=True), "densenet121": densenet121}


# name -> (shape of the images, with batch)
SEEDED = {"squeezenet1_1": (2, 66, 71, 3), "cifar10_resnet20": (2, 32, 32, 3), "efficientnet_lite0": (2, 65, 70, 3),
          "small_cnn": (2, 29, 28, 1), "vgg16": (1, 64, 64, 3), "vgg19": (1, 64, 64, 3), "resnet18": (2, 65, 70, 3),
          "resnet50": (2, 65, 70, 3), "densenet121": (2, 65, 70, 3)}
TRAINED = {"squeezenet1_1": (2, 227, 227, 3), "cifar10_resnet20": (2, 32, 32, 3), "cifar10_resnet56": (2, 32, 32, 3),
           "efficientnet_lite0": (2, 224, 224, 3), "small_cnn": (2, 28, 28, 1)}


def main(data, efficientnet):
    import torch
    from safetensors.torch import load_file

    folder = pathlib.Path(data) / "networks"
    small = load_file(folder / "boopathy2020/mnist_smallgap_normal.safetensors")
    files = {name: load_file(folder / f"{name}.safetensors")
             for name in ("squeezenet1_1", "cifar10_resnet20", "cifar10_resnet56")}
    files["efficientnet_lite0"] = torch.load(efficientnet, weights_only=True)
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    files["small_cnn"] = {n.replace("kernel", "weight"): t.permute(axes[t.ndim]) for n, t in small.items()}
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    prepare = {"squeezenet1_1": lambda p: 255 * p - np.array((123, 117, 104)), "small_cnn": lambda p: p,
               "efficientnet_lite0": lambda p: (255 * p - 127) / 128,
               "cifar10_resnet20": lambda p: (p - mean) / std, "cifar10_resnet56": lambda p: (p - mean) / std}
    oracles, shapes = {}, {}

    def forward(name, images, weight):
        images = torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            return networks(torch, lambda n, shape: weight(n, shape).double())[name](images).numpy()

    for name, shape in SEEDED.items():
        names = shapes[name] = {}
        oracles[f"{name}/seeded"] = forward(name, seeded_images(*shape), lambda n, shape, names=names: (
            names.__setitem__(n, shape), torch.from_numpy(seeded_weight(n, shape)))[1])
    for name, shape in TRAINED.items():
        def trained(n, shape, tensors=files[name]):
            assert tensors[n].shape == shape, (n, shape)
            return tensors[n]

        oracles[f"{name}/trained"] = forward(name, prepare[name](seeded_images(*shape)), trained)
    for size, window, stride, ceil, padding in POOLINGS:
        x = torch.from_numpy(tied_image(size).transpose(2, 0, 1).copy()).requires_grad_()
        y = torch.nn.functional.max_pool2d(x[None], window, stride, padding, ceil_mode=ceil)[0]
        key = f"pool/{size}-{window}-{stride}-{int(ceil)}-{padding}"
        (y * (1 + torch.arange(y.numel()).reshape(y.shape))).sum().backward()
        oracles[key], oracles[key + "/grad"] = (a.detach().numpy().transpose(1, 2, 0) for a in (y, x.grad))
    file = pathlib.Path(__file__).with_name("models.npz")
    np.savez_compressed(file, shapes=json.dumps(shapes), **{k: v.astype(np.float32) for k, v in oracles.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
