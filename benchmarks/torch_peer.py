"""The same attack step in plain PyTorch: a softplus network with hard max-pooling, its gradient map, loss and Adam.

Four architectures from their torch-named weights (see xmanip_jax.models). Needs torch. Everything lies on the device
that JAX computes on: the first GPU where both see one, else the CPU.
"""

import jax
import numpy as np
import torch
import torch.nn.functional as F

torch.set_flush_denormal(True)  # as XLA does


def device():
    """Where both compute."""
    return torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")


def tensors(values, dtype=torch.float32):
    """A tree of arrays as tensors of a floating-point type on the device."""
    return jax.tree.map(lambda v: torch.from_numpy(np.array(v)).to(device(), dtype), values)


def softplus(beta):
    return lambda z: F.softplus(z, beta=beta)


def squeezenet(w, act, x):
    conv = lambda x, name, **options: F.conv2d(x, w[name + ".weight"], w[name + ".bias"], **options)
    x = act(conv(x, "features.0", stride=2))
    for i in (3, 4, 6, 7, 9, 10, 11, 12):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) if i in (3, 6, 9) else x
        s = act(conv(x, f"features.{i}.squeeze"))
        x = torch.cat([act(conv(s, f"features.{i}.expand1x1")), act(conv(s, f"features.{i}.expand3x3", padding=1))], 1)
    return act(conv(x, "classifier.1", padding=1)).mean((2, 3))


def normalised(w, x, conv, bn, stride=1):
    """Convolution, padded so that its size is that of x over the stride, and BatchNorm in inference."""
    kernel = w[conv + ".weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    stats = (w[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *stats, eps=1e-5)


def cifar_resnet(w, act, x):
    block = lambda *of: normalised(w, *of)
    x = act(block(x, "conv1", "bn1"))
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("layer1."))
    for stage in (1, 2, 3):
        for i in range(depth):
            at, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            shortcut = x
            if stride == 2:
                channels = x.shape[1] // 2
                shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels, channels))
            x = block(act(block(x, f"{at}.conv1", f"{at}.bn1", stride)), f"{at}.conv2", f"{at}.bn2")
            x = act(x + shortcut)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def resnet50(w, act, x):
    x = F.max_pool2d(act(normalised(w, x, "conv1", "bn1", 2)), 3, 2, padding=1)
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for i in range(depth):
            at, stride, shortcut = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1, x
            if i == 0:
                shortcut = normalised(w, x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = act(normalised(w, x, f"{at}.conv1", f"{at}.bn1"))
            x = act(normalised(w, x, f"{at}.conv2", f"{at}.bn2", stride))
            x = act(normalised(w, x, f"{at}.conv3", f"{at}.bn3") + shortcut)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def vgg16(w, act, x):
    convolutions = sorted({int(name.split(".")[1]) for name in w if name.startswith("features.")})
    pooled_after = {2, 7, 14, 21, 28}
    for i in convolutions:
        x = act(F.conv2d(x, w[f"features.{i}.weight"], w[f"features.{i}.bias"], padding=1))
        x = F.max_pool2d(x, 2, 2) if i in pooled_after else x
    x = x.flatten(1)
    for i in (0, 3, 6):
        x = F.linear(x, w[f"classifier.{i}.weight"], w[f"classifier.{i}.bias"])
        x = act(x) if i < 6 else x
    return x


NETWORKS = {"squeezenet1_1": squeezenet, "cifar10_resnet20": cifar_resnet, "vgg16": vgg16, "resnet50": resnet50}


class Peer:
    """step() runs one attack step on a batch; loss_and_gradient() its first half, for checking; forward() the network.

    What step and forward return can be waited for, as JAX's arrays can: jax.block_until_ready.
    """

    def __init__(self, name, weights, beta, scale, shift, pixels, goal, labels, clean_logits, learning_rate,
                 dtype=None):
        dtype = dtype or getattr(torch, str(np.asarray(pixels).dtype))
        self.weights = tensors(dict(weights), dtype)
        self.network = lambda x: NETWORKS[name](self.weights, softplus(beta), x)
        self.scale, self.shift = (v[:, None, None] for v in tensors([np.array(scale), np.array(shift)], dtype))
        self.pixels = tensors(np.transpose(pixels, (0, 3, 1, 2)), dtype).contiguous().requires_grad_()
        self.goal, self.labels = tensors(np.array(goal), dtype), tensors(np.array(labels), torch.int64)
        self.log_p = F.log_softmax(tensors(np.array(clean_logits), dtype), 1)
        self.optimizer = torch.optim.Adam([self.pixels], lr=learning_rate)

    def block_until_ready(self):
        """Wait for what was asked of the device."""
        if device().type == "cuda":
            torch.cuda.synchronize()
        return self

    def forward(self):
        with torch.no_grad():
            self.network(self.scale * self.pixels + self.shift)
        return self

    def loss(self):
        x = self.scale * self.pixels + self.shift
        logits = self.network(x)
        score = logits.gather(1, self.labels[:, None]).sum()
        (map,) = torch.autograd.grad(score, x, create_graph=True)
        heatmap = map.abs().sum(1)
        heatmap = heatmap / heatmap.sum((1, 2), keepdim=True)
        match = heatmap[0].numel() * ((heatmap - self.goal) ** 2).sum((1, 2))
        keep = (self.log_p.exp() * (self.log_p - F.log_softmax(logits, 1))).sum(1)
        return (match + keep).sum()

    def loss_and_gradient(self):
        loss = self.loss()
        (gradient,) = torch.autograd.grad(loss, self.pixels)
        return float(loss.detach()), gradient.permute(0, 2, 3, 1).cpu().numpy()

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        with torch.no_grad():
            self.pixels.clamp_(0, 1)
        return self
