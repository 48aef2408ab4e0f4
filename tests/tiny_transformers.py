"""Three random vision transformers, each written in another way, and relevance through them by tables, in numpy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N, D, H, C = 4, 8, 2, 3  # tokens of a 2 x 2 grid of 4 x 4 patches, features, heads, classes


class Kind(NamedTuple):
    bias: bool
    class_token: bool
    gated: bool  # an RMSNorm and a gated MLP in place of LayerNorm and a plain one
    spelling: str


KINDS = {"plain": Kind(False, False, False, "matmul"), "scanned": Kind(True, True, False, "einsum"),
         "gated": Kind(True, False, True, "dot_product_attention")}


def parameters(kind, layers=2, seed=0):
    rng = np.random.default_rng(seed)
    w = lambda *shape: rng.normal(size=shape) / np.sqrt(shape[0])
    b = lambda *shape: rng.normal(size=shape) / 3 if kind.bias else None
    norm = lambda: {"gamma": 1 + rng.normal(size=D) / 4, "beta": None if kind.gated else b(D)}
    tokens = N + kind.class_token
    blocks = [{"norm1": norm(), "qkv": w(D, 3 * D), "qkv_b": b(3 * D), "out": w(D, D), "out_b": b(D), "norm2": norm(),
               "up": w(D, 2 * D), "up_b": b(2 * D), "gate": w(D, 2 * D) if kind.gated else None,
               "down": w(2 * D, D), "down_b": b(D)} for _ in range(layers)]
    return {"patch": w(48, D), "patch_b": b(D), "cls": rng.normal(size=(1, D)) if kind.class_token else None,
            "pos": rng.normal(size=(tokens, D)) / 2 if kind.bias else None, "blocks": blocks, "norm": norm(),
            "head": w(D, C), "head_b": b(C)}


def shifted(v, b):
    return v if b is None else v + b


def patches(x):
    return x.reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(N, 48)


def normed(t, p, gated):
    if gated:
        return t / jnp.sqrt(jnp.mean(t * t, -1, keepdims=True) + 1e-3) * p["gamma"]
    centred = t - t.mean(-1, keepdims=True)
    return shifted(centred * lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-3) * p["gamma"], p["beta"])


def weights_and_values(q, k, v, spelling, delta):
    """[tokens, heads, d] -> the same; delta is added to the weights [heads, queries, keys]."""
    scale = 1 / np.sqrt(D // H)
    if spelling == "dot_product_attention" and delta is None:
        return jax.nn.dot_product_attention(q, k, v)
    if spelling == "matmul":
        q, k, v = (a.transpose(1, 0, 2) for a in (q, k, v))
        a = jax.nn.softmax(q @ k.mT * scale)
        return ((a if delta is None else a + delta) @ v).transpose(1, 0, 2)
    scores = jnp.einsum("qhd,khd->hqk", q * scale, k)
    e = jnp.exp(scores - scores.max(-1, keepdims=True))
    a = e / jnp.einsum("hqk->hq", e)[..., None]
    return jnp.einsum("hqk,khd->qhd", a if delta is None else a + delta, v)


def model(p, kind, *, act=jax.nn.gelu, loop="as it is", deltas=None):
    """loop: "scan" over layers, "remat" of each, or "plain"; by default the second kind scans, the third remats."""
    if loop == "as it is":
        loop = {"einsum": "scan", "dot_product_attention": "remat"}.get(kind.spelling, "plain")
    act = jax.nn.silu if kind.gated else act

    def block(t, q, delta=None):
        qkv = shifted(normed(t, q["norm1"], kind.gated) @ q["qkv"], q["qkv_b"])
        heads = (a.reshape(-1, H, D // H) for a in jnp.split(qkv, 3, -1))
        o = weights_and_values(*heads, kind.spelling, delta).reshape(-1, D)
        t = t + shifted(o @ q["out"], q["out_b"])
        m = normed(t, q["norm2"], kind.gated)
        h = act(shifted(m @ q["up"], q["up_b"])) if q["gate"] is None else act(m @ q["gate"]) * shifted(
            m @ q["up"], q["up_b"])
        return t + shifted(h @ q["down"], q["down_b"])

    def f(x):
        t = shifted(patches(x) @ p["patch"], p["patch_b"])
        t = t if p["cls"] is None else jnp.concatenate([jnp.asarray(p["cls"], t.dtype), t])
        t = shifted(t, p["pos"])
        if deltas is not None or loop != "scan":
            step = jax.checkpoint(block) if loop == "remat" else block
            for k, q in enumerate(p["blocks"]):
                t = step(t, q) if deltas is None else block(t, q, deltas[k])
        else:
            stacked = jax.tree.map(lambda *v: jnp.stack(v), *p["blocks"])
            t, _ = lax.scan(lambda t, q: (block(t, q), None), t, stacked)
        t = normed(t, p["norm"], kind.gated)
        return shifted((t.mean(0) if p["cls"] is None else t[0]) @ p["head"], p["head_b"])

    return f


# --- relevance by tables, in numpy


class Rules(NamedTuple):
    """What each operation does with relevance R: functions of the specification's tables at stabilizer 0."""

    linear: callable
    add: callable
    weighted: callable  # of O = A V: (R, A, V, O) -> (R of A, R of V)
    normed: callable
    constants: bool  # whether biases and embeddings keep their share


def lrp_0(R, x, w, z):
    return x * ((R / z) @ w.T)


def z_plus(R, x, w, z):
    up, down = np.maximum(w, 0), np.minimum(w, 0)
    right, left = np.maximum(x, 0), np.minimum(x, 0)
    z = right @ up + left @ down
    s = np.where(z == 0, 0, R / np.where(z == 0, 1, z))
    return right * (s @ up.T) + left * (s @ down.T)


def in_proportion(R, a, b):
    return a * R / (a + b), b * R / (a + b)


def rescaled(R, a, b):
    parts = in_proportion(R, a, b)
    sums = [part.sum() for part in parts]
    return tuple(part * np.abs(s) / np.abs(sums).sum() * R.sum() / s for part, s in zip(parts, sums, strict=True))


def matmul_halves(R, a, v, o):
    g = R / (2 * o)
    return a * (g @ v.transpose(0, 2, 1)), v * (a.transpose(0, 2, 1) @ g)


def values_only(R, a, v, o):
    return 0 * a, v * (a.transpose(0, 2, 1) @ (R / o))


def norm_table(R, t, p, gated):
    if gated:
        return R
    centred = t - t.mean(-1, keepdims=True)
    std = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)
    y = shifted(centred / std * p["gamma"], p["beta"])
    g = p["gamma"] * R / y / std
    return t * (g - g.mean(-1, keepdims=True))


def softmax_table(R, s, a):
    return s * (R - a * R.sum(-1, keepdims=True))


ATTNLRP = Rules(lrp_0, in_proportion, matmul_halves, norm_table, True)
CP_LRP = Rules(lrp_0, in_proportion, values_only, norm_table, True)
CHEFER = Rules(z_plus, rescaled, matmul_halves, lambda R, t, p, gated: R, False)


def by_tables(p, kind, x, target, rules, start, act):
    """(map of x, relevance of the weights of every block), walking back through stored values."""
    e = np.asarray
    patch = patches(e(x))
    z0 = shifted(patch @ p["patch"], p["patch_b"])
    t0 = z0 if p["cls"] is None else np.concatenate([p["cls"], z0])
    t, kept = shifted(t0, p["pos"]), []
    split = lambda a: a.reshape(len(a), H, D // H).transpose(1, 0, 2)
    join = lambda a: a.transpose(1, 0, 2).reshape(-1, D)
    for q in p["blocks"]:
        n1 = e(normed(t, q["norm1"], kind.gated))
        qkv = shifted(n1 @ q["qkv"], q["qkv_b"])
        Q, K, V = map(split, np.split(qkv, 3, -1))
        raw = Q @ K.transpose(0, 2, 1)
        s = raw / np.sqrt(D // H)
        a = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
        o = a @ V
        out = shifted(join(o) @ q["out"], q["out_b"])
        r = t + out
        n2 = e(normed(r, q["norm2"], kind.gated))
        up = shifted(n2 @ q["up"], q["up_b"])
        gate = None if q["gate"] is None else n2 @ q["gate"]
        h = e(act(up)) if gate is None else e(act(gate)) * up
        down = shifted(h @ q["down"], q["down_b"])
        kept.append((t, n1, qkv, Q, K, V, raw, s, a, o, out, r, n2, up, gate, h, down))
        t = r + down
    y = e(normed(t, p["norm"], kind.gated))
    pooled = y.mean(0) if p["cls"] is None else y[0]
    logits = shifted(pooled @ p["head"], p["head_b"])
    R = rules.linear(np.eye(C)[target] * (logits if start == "logit" else 1), pooled, p["head"], logits)
    R = y * R / y.sum(0) if p["cls"] is None else np.concatenate([R[None], 0 * y[1:]])
    R, found = rules.normed(R, t, p["norm"], kind.gated), []
    for q, (t, n1, qkv, Q, K, V, raw, s, a, o, out, r, n2, up, gate, h, down) in zip(
            p["blocks"][::-1], kept[::-1], strict=True):
        R, Rd = rules.add(R, r, down)
        Rh = rules.linear(Rd, h, q["down"], down)
        if gate is None:
            Rn = rules.linear(Rh, n2, q["up"], up)
        else:
            Rn = rules.linear(Rh / 2, n2, q["up"], up) + rules.linear(Rh / 2, n2, q["gate"], gate)
        R = R + rules.normed(Rn, r, q["norm2"], kind.gated)
        R, Ro = rules.add(R, t, out)
        Ra, Rv = rules.weighted(split(rules.linear(Ro, join(o), q["out"], out)), a, V, o)
        found.append(Ra)
        Rs = Ra if rules is CHEFER else softmax_table(Ra, s, a)
        g = Rs / (2 * raw)
        packed = np.concatenate([join(Q * (g @ K)), join(K * (g.transpose(0, 2, 1) @ Q)), join(Rv)], -1)
        R = R + rules.normed(rules.linear(packed, n1, q["qkv"], qkv), t, q["norm1"], kind.gated)
    if rules.constants and p["pos"] is not None:
        R = t0 * R / (t0 + p["pos"])
    R = R if p["cls"] is None else R[1:]
    image = rules.linear(R, patch, p["patch"], z0)
    return image.reshape(2, 2, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(8, 8, 3), found[::-1]
