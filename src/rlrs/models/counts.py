"""Sizes of a model: parameters, and the floating-point operations of a training step.

Shape suffixes: D model width, T tokens per sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.components import partition, undecayed
from rlrs.models.language_model import LanguageModel

TABLES = ("embedding", "position", "unembedding")
"""Components that are looked up by token or position, or project to the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Sizes of a model, tied weights counted once.

    Args:
        total: all parameters.
        active: those that one token uses: its own experts in every block, and everything else.
        embedding: token embedding, position and unembedding tables.
        non_embedding: `total - embedding`.
    """

    total: int
    active: int
    embedding: int
    non_embedding: int


def count_parameters(model: LanguageModel) -> ParameterCount:
    """Count a model's parameters; see `ParameterCount`.

    >>> from rlrs.models import build_model
    >>> from rlrs.settings import ModelConfig
    >>> model = build_model(ModelConfig(d_model=16, n_layers=1, n_heads=2, n_experts=4), vocab_size=100)
    >>> count = count_parameters(model)
    >>> count.total - count.non_embedding == count.embedding, count.active < count.total
    (True, True)
    """
    sizes = _sizes(model)
    total = sum(sizes.values())
    embedding = sum(sizes.get(component, 0) for component in TABLES)
    active = total - sizes.get("experts", 0) + _used(sizes, model)
    return ParameterCount(total=total, active=active, embedding=embedding, non_embedding=total - embedding)


def training_flops(model: LanguageModel, sequence_length: int) -> int:
    """Floating-point operations of training on one token, forward and backward.

        4 * P + 2 * Q + 6 * A * (T + 1)

    P are the active weights of matrix products: experts as far as a token uses them, the unembedding also when it is
    tied; look-ups and vectors (norms, biases) not. Q are those of them that are trained. Each costs a multiplication
    and an addition forward, as many backward, and as many for its own gradient (Kaplan et al., 2020, arXiv:2001.08361,
    section 2.1). A is the width of the queries of all heads and layers together: token t of a sequence meets t keys,
    (T + 1) / 2 on average, at 2 * A operations each for the scores and as many for the sum of the values. Pairs that
    causality masks are not counted: Chowdhery et al. (2022, arXiv:2204.02311, appendix B) count them, which doubles
    this part. Norms, activations, softmax, rotary positions, the optimizer, and anything computed a second time are not
    counted.

    Args:
        model: one of `build_model`'s.
        sequence_length: tokens per sequence T.

    >>> from rlrs.models import build_model
    >>> from rlrs.settings import ModelConfig
    >>> model = build_model(ModelConfig(d_model=16, n_layers=1, n_heads=2), vocab_size=100)
    >>> training_flops(model, 33) - training_flops(model, 32)  # 3 * 2 * A, with A = 16
    96
    """
    products = _products(model, _sizes(model, matrices_only=True))
    trained = _products(model, _sizes(model, matrices_only=True, trained_only=True))
    return 4 * products + 2 * trained + 6 * model.attention_width * (sequence_length + 1)


def _products(model: LanguageModel, sizes: dict[str, int]) -> int:
    """Weights that one token is multiplied by."""
    products = sum(size for component, size in sizes.items() if component not in (*TABLES, "experts"))
    products += _used(sizes, model)
    return products + sizes.get("unembedding", sizes["embedding"])  # where it is tied, the embedding's table projects


def _used(sizes: dict[str, int], model: LanguageModel) -> int:
    """Weights of the experts that one token passes."""
    used = sizes.get("experts", 0) * model.used_experts
    assert used.denominator == 1, "experts of unequal size"
    return int(used)


def _sizes(model: LanguageModel, *, matrices_only: bool = False, trained_only: bool = False) -> dict[str, int]:
    """Component -> number of parameters."""
    parameters = dict(model.named_parameters())
    return {
        component: sum(
            parameters[name].numel()
            for name in names
            if not (matrices_only and undecayed(name, parameters[name], component))
            and (parameters[name].requires_grad or not trained_only)
        )
        for component, names in partition(model).items()
    }
