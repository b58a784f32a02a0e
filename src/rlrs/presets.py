"""Ratios that are made for one model: layer-wise decay, LoRA+, new tokens, a width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from rlrs.components import Depth, Partition, Rule, is_lora_b, partition, refine, token_rows, vocabulary_rows
from rlrs.ratios import BASE, Ratio, Ratios


def layer_decay(
    model: nn.Module,
    factor: float | Mapping[str, float],
    ratios: Ratios | Mapping[str, Any] | None = None,
    *,
    rules: Sequence[Rule] = (),
) -> Ratios:
    """Layer-wise decay of learning rates as ratios: `ratios` of every layer times a power of `factor`.

    In a tower of N layers, layer l (from 0) has `factor ** (N - l)`; what lies below all layers (embeddings, positions,
    their norms, patches and convolutions) `factor ** (N + 1)`; what lies above them 1 (Bao et al., 2022,
    arXiv:2106.08254). These are the scales of timm's `param_groups_layer_decay`, but for the final norm of its ViT and
    Swin, which has the last layer's there and is above the layers here, as in BEiT's code. An encoder, a decoder and a
    vision tower count their layers each, and may have factors of their own; a table that several towers share is below
    the deepest. Layers are those of `Partition.depths`: stages, as in Swin, are counted through.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    >>> layer_decay(model, 0.5, {"attention": (2.0, 1.0)})["attention/layer.0"]
    Ratio(knots=((0.0, 0.5), (1.0, 0.25)))

    Args:
        model: the whole model, on any device (meta will do); a stage of a pipeline does not know how many layers
            there are.
        factor: above 0; below 1, lower layers learn more slowly. By tower, `{"vision_tower": 0.8}`: towers that are not
            named have 1, and a table that several share is the tower `shared`. Names are those of `Depth.tower`.
        ratios: per component; all 1 if not given.
        rules: of the partition; see `partition`.

    Raises:
        ValueError: a factor that is not above 0, a model without layers or such a tower, or no factor for what towers
            with factors of their own share.
        RatiosError: ratios that are per layer or expert already, or for a component that the model does not have.
    """
    ratios, parts = _given(model, ratios, rules)
    if not any(depth.layer is not None for depth in parts.depths.values()):
        raise ValueError(
            f"{type(model).__name__} has no layers, of which layer_decay could tell lower from higher ones"
        )
    factors = _factors(model, factor, parts)
    decayed: dict[str, Ratio] = {}
    for component, names in parts.items():
        ratio = ratios.get(component, BASE)
        scales = _scales(component, [parts.depths[name] for name in names], lambda d: factors[d.tower] ** d.height)
        decayed |= {key: ratio.times(scale) for key, scale in scales.items()}
    said = factor if isinstance(factor, int | float) else dict(factor)
    return Ratios(decayed, {**ratios.provenance, "layer_decay": said})


def lora_plus(
    model: nn.Module,
    factor: float,
    ratios: Ratios | Mapping[str, Any] | None = None,
    *,
    rules: Sequence[Rule] = (),
) -> Ratios:
    """LoRA+ as ratios: the second matrix B of every LoRA adapter learns at `factor` times the rate of the first, A.

    B begins at zero and A does not, so that one rate is too low for B or too high for A the wider the model is (Hayou
    et al., 2024, arXiv:2402.12354, who take 16). Without `ratios` these are the groups of PEFT's
    `create_loraplus_optimizer`, but for adapters of an embedding, which that gives a rate of their own.

    >>> adapted = {"base_layer": nn.Linear(8, 8), "lora_A": nn.Linear(8, 2), "lora_B": nn.Linear(2, 8)}
    >>> block = nn.ModuleDict({"q_proj": nn.ModuleDict(adapted)})
    >>> model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"self_attn": block})])})
    >>> lora_plus(model, 16)["attention/lora_B"].start
    16.0

    Args:
        model: with adapters, on any device.
        factor: above 0.
        ratios: per component; all 1 if not given.
        rules: of the partition; see `partition`.

    Raises:
        ValueError: a factor that is not above 0, or a model without LoRA's adapters.
        RatiosError: ratios for a component that the model does not have.
    """
    _check_factor(factor)
    ratios, parts = _given(model, ratios, rules)
    adapted = [component for component, names in parts.items() if any(map(is_lora_b, names))]
    if not adapted:
        raise ValueError(f"{type(model).__name__} has no LoRA adapters, whose two matrices lora_plus could tell apart")
    halves = {f"{component}/lora_B": ratios.get(component, BASE).times(factor) for component in adapted}
    return Ratios({**ratios, **halves}, {**ratios.provenance, "lora_plus": factor})


def new_tokens(
    model: nn.Module,
    first: int,
    ratio: Any,
    ratios: Ratios | Mapping[str, Any] | None = None,
    *,
    rules: Sequence[Rule] = (),
) -> Ratios:
    """A rate of their own for tokens that were added to a vocabulary: their rows of the table, and of an untied head.

    The rows from `first` on have `ratio`, the others what `ratios` say; 0 there leaves the old tokens as they are, to
    the bit. Exact, weight decay and moments included, as if the rows were a tensor of their own (`rlrs.slices`).

    >>> model = nn.ModuleDict({"embed_tokens": nn.Embedding(10, 4), "lm_head": nn.Linear(4, 10, bias=False)})
    >>> new_tokens(model, 8, 5.0, {"embedding": 0.0})
    Ratios(embedding: 0 -> 0, embedding/token.8-: 5 -> 5, unembedding/token.8-: 5 -> 5)

    Args:
        model: after its tables were made larger (`resize_token_embeddings`), on any device.
        first: number of the first new token: the length of the tokenizer before it was extended.
        ratio: of the new rows, as `Ratio.of` takes it.
        ratios: per component, for the rest; all 1 if not given.
        rules: of the partition; see `partition`.

    Raises:
        PartitionError: the tables have no row `first`.
        RatiosError: ratios for a component that the model does not have.
        ValueError: a model without an embedding.
    """
    ratios, parts = _given(model, ratios, rules)
    if "embedding" not in parts:
        raise ValueError(f"{type(model).__name__} has no embedding, whose rows new_tokens could tell apart")
    of_new = Ratio.of(ratio)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    held = [c for c in ("embedding", "unembedding") if c in parts and token_rows(parts, shapes, c)]
    keys = {f"{component}/token.{first}-": of_new for component in held or ["embedding"]}
    refine(model, parts, keys)
    return Ratios({**ratios, **keys}, {**ratios.provenance, "new_tokens": first})


def mup_width(
    model: nn.Module,
    base_width: int,
    ratios: Ratios | Mapping[str, Any] | None = None,
    *,
    exponent: float = 0.5,
    rules: Sequence[Rule] = (),
) -> Ratios:
    """Ratios of a narrower model at this width: the embedding's over the hidden layers' times a power of the growth.

    Under Adam, the best ratio of the embedding's rate to the hidden layers' grows like the square root of the width
    where the vocabulary is much larger than that, as in language models (Hayou and Liu, 2025, arXiv:2506.15025); muP,
    for a fixed vocabulary, has the width itself: `exponent=1` (Yang et al., 2022, arXiv:2203.03466, table 3). The base
    rate is the hidden layers', and is tuned at this width. Rates alone: initialisation and multipliers stay.

    >>> model = nn.ModuleDict({"embed_tokens": nn.Embedding(50, 64), "lm_head": nn.Linear(64, 50)})
    >>> mup_width(model, 16, {"embedding": (5.0, 0.5)})
    Ratios(embedding: 10 -> 1)

    Args:
        model: on any device; its width is that of its vocabulary's table.
        base_width: of the model that `ratios` were found on.
        ratios: found there; all 1 if not given.
        exponent: of the growth in width.
        rules: of the partition; see `partition`.

    Raises:
        ValueError: a model without a vocabulary's table, or a base width that is not above 0.
        RatiosError: ratios for a component that the model does not have.
    """
    ratios, parts = _given(model, ratios, rules)
    shapes = {name: tuple(model.get_parameter(name).shape) for name in parts.get("embedding", ())}
    tables = [shape for shape in shapes.values() if len(shape) == 2 and shape[0] == vocabulary_rows(shapes.values())]
    if not tables:
        raise ValueError(f"{type(model).__name__} has no table of a vocabulary, of which mup_width takes the width")
    if not base_width > 0:
        raise ValueError(f"base_width should be above 0, not {base_width!r}")
    width = tables[0][1]
    growth = math.pow(width / base_width, exponent)
    keys = ["embedding", *(name for name in ratios if name.startswith("embedding/"))]
    grown = {key: ratios.get(key, BASE).times(growth) for key in keys}
    made = {"width": width, "base_width": base_width, "exponent": exponent}
    return Ratios({**ratios, **grown}, {**ratios.provenance, "mup_width": made})


def _given(
    model: nn.Module, ratios: Ratios | Mapping[str, Any] | None, rules: Sequence[Rule]
) -> tuple[Ratios, Partition]:
    """The ratios that a preset starts from, checked, and the model's partition."""
    ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
    parts = partition(model, rules)
    ratios.check_used([*parts, *parts.tied_components], "the model")
    return ratios, parts


def _check_factor(factor: float, where: str = "") -> None:
    if not factor > 0:
        raise ValueError(f"factor{where} should be above 0, not {factor!r}")


def _factors(model: nn.Module, factor: float | Mapping[str, float], parts: Partition) -> dict[str, float]:
    """Tower -> its factor."""
    towers = sorted({depth.tower for depth in parts.depths.values()})
    if not isinstance(factor, Mapping):
        _check_factor(factor)
        return dict.fromkeys(towers, factor)
    if towers == [""]:
        raise ValueError(f"{type(model).__name__} has one tower: give layer_decay one factor, not one by tower")
    for tower, value in factor.items():
        if tower not in towers:
            raise ValueError(f"the model has no tower {tower!r}; its towers are {', '.join(towers)}")
        _check_factor(value, f" of {tower}")
    below = [name for name, depth in parts.depths.items() if depth.tower == "shared" and depth.below]
    if below and "shared" not in factor:
        raise ValueError(
            f"{below[0]} is below several towers, which have factors of their own: give one for it too, as 'shared'"
        )
    return {tower: factor.get(tower, 1.0) for tower in towers}


def _scales(component: str, depths: Sequence[Depth], scale: Callable[[Depth], float]) -> dict[str, float]:
    """Keys of ratios for a component's parameters -> their scales, in as few keys as will do."""
    if all(depth.below for depth in depths) and len({scale(depth) for depth in depths}) == 1:
        return {component: scale(depths[0])}
    found = {component: 1.0}
    places: dict[str, list[Depth]] = {}
    for depth in sorted(depths, key=lambda depth: (not depth.below, depth.layer or 0)):
        if depth.height:
            places.setdefault("below" if depth.below else f"layer.{depth.layer}", []).append(depth)
    for place, here in places.items():
        if len({scale(depth) for depth in here}) == 1:
            found[f"{component}/{place}"] = scale(here[0])
        else:
            found |= {f"{component}/{depth.tower}.{place}": scale(depth) for depth in here}
    return found
