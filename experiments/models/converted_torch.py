"""A PyTorch network, written again once in flax nnx with the names of its layers.

In PyTorch, the weights and what each layer makes of one image, x: Float[1, 3, 32, 32]:

    torch.save(net.state_dict(), "network.pth")
    found = {}
    for name, layer in net.named_modules():
        layer.register_forward_hook(lambda _, __, out, name=name: found.update({name: out.detach().clone().numpy()}))
    found["logits"] = net(x).detach().numpy()
    numpy.savez("layers.npz", **{name: found[name] for name in ("conv1", "conv2", "logits")})

Here, whether both agree:

    net = network()["model"]
    print(models.compare_layers(net, x[0].transpose(1, 2, 0), numpy.load("layers.npz")))
"""

import jax
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from xmanip_jax import models

CLASSES = ["cat", "cup", "rocket", "face", "eye"]
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # of torchvision's Normalize


class Network(nnx.Module):
    """x: Float[32, 32, 3], with or without a batch axis -> logits Float[..., 5]."""

    def __init__(self, rngs):
        # padding=1 is torch's: "SAME" would pad another side of an even image
        self.conv1 = nnx.Conv(3, 8, (3, 3), 2, padding=1, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), 2, padding=1, rngs=rngs)
        self.fc = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        x = checkpoint_name(self.conv1(x), "conv1")
        x = checkpoint_name(self.conv2(jax.nn.relu(x)), "conv2")
        return self.fc(jax.nn.relu(x).mean((-3, -2)))


def weights():
    """What network.pth holds, with torch's names and layouts; here random."""
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "conv2.weight": (16, 8, 3, 3), "conv2.bias": (16,),
              "fc.weight": (5, 16), "fc.bias": (5,)}
    return {name: np.float32(rng.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[1:]))))
            for name, shape in shapes.items()}


def network():
    """With your file: models.load_weights(Network(nnx.Rngs(0)), "network.pth")."""
    module = models.load_weights(Network(nnx.Rngs(0)), weights())
    return {"model": module, "input_shape": (32, 32, 3), "classes": CLASSES,
            "preprocess": lambda pixels: (pixels - MEAN) / STD}
