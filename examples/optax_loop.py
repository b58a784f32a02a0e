"""Relative rates in a plain JAX loop: a small language model of this file's bytes, one optax transformation.

python examples/optax_loop.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import rlrs
from rlrs.integrations.optax import component_partition, relative
from rlrs.schedules import BaseSchedule

BATCH, LENGTH, WIDTH, VOCAB = 16, 64, 64, 256  # bytes are the vocabulary


def init(key: jax.Array) -> dict:
    def matrix(rows, columns, std):
        nonlocal key
        key, this = jax.random.split(key)
        return jax.random.normal(this, (rows, columns)) * std

    block = {
        "attention_norm": jnp.ones(WIDTH),
        "attention": {name: matrix(WIDTH, WIDTH, WIDTH**-0.5) for name in ("wq", "wk", "wv", "wo")},
        "mlp_norm": jnp.ones(WIDTH),
        "mlp": {"up": matrix(WIDTH, 4 * WIDTH, WIDTH**-0.5), "down": matrix(4 * WIDTH, WIDTH, WIDTH**-0.5 / 2)},
    }
    ends = {"embedding": matrix(VOCAB, WIDTH, 0.02), "unembedding": matrix(WIDTH, VOCAB, WIDTH**-0.5)}
    return {**ends, "layers": [block], "norm": jnp.ones(WIDTH)}


def forward(params: dict, tokens_T: jax.Array) -> jax.Array:
    """Logits of shape (T, V) for T tokens; D is the width."""

    def norm(x, gain):
        return gain * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    x_TD = params["embedding"][tokens_T]
    for layer in params["layers"]:
        a, h_TD = layer["attention"], norm(x_TD, layer["attention_norm"])
        scores_TT = (h_TD @ a["wq"]) @ (h_TD @ a["wk"]).T * WIDTH**-0.5
        scores_TT = jnp.where(jnp.tri(len(tokens_T), dtype=bool), scores_TT, -1e9)
        x_TD = x_TD + jax.nn.softmax(scores_TT) @ (h_TD @ a["wv"]) @ a["wo"]
        x_TD = x_TD + jax.nn.gelu(norm(x_TD, layer["mlp_norm"]) @ layer["mlp"]["up"]) @ layer["mlp"]["down"]
    return norm(x_TD, params["norm"]) @ params["unembedding"]


def loss_of(params: dict, tokens_BT: jax.Array) -> jax.Array:
    logits_BTV = jax.vmap(forward, (None, 0))(params, tokens_BT[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, tokens_BT[:, 1:]).mean()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps")
    parser.add_argument("--ratios", type=Path, help="a ratios.yaml; the paper's for dense models, if not given")
    args = parser.parse_args(argv)
    ratios = rlrs.Ratios.load(args.ratios) if args.ratios else rlrs.Ratios.preset("paper-dense")
    params = init(jax.random.key(0))
    for component, names in component_partition(params).items():
        print(f"{component}: {', '.join(names)}")

    def adamw(rate):
        return optax.adamw(rate, weight_decay=0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))

    schedule = BaseSchedule(total_steps=args.steps, warmup_steps=args.steps // 20)
    optimizer = relative(adamw, params, ratios, lr=3e-3, schedule=schedule)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, tokens_BT):
        loss, gradients = jax.value_and_grad(loss_of)(params, tokens_BT)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    text = jnp.frombuffer(Path(__file__).read_bytes(), dtype=jnp.uint8).astype(jnp.int32)
    for step in range(args.steps):
        starts_B = jax.random.randint(jax.random.key(step), (BATCH,), 0, len(text) - LENGTH)
        params, state, loss = update(params, state, text[starts_B[:, None] + jnp.arange(LENGTH)])
        if step % 25 == 0 or step == args.steps - 1:
            print(f"step {step}: loss {loss:.3f} nats per byte")


if __name__ == "__main__":
    main()
