"""The same model at another size: a proxy times 27, say, with the shape that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rlrs.messages import shown
from rlrs.models.build import build_model
from rlrs.models.counts import count_parameters
from rlrs.models.sizes import at_depth, at_width, size_steps
from rlrs.settings import ConfigError, HubConfig, ModelConfig, ScaleConfig
from rlrs.settings.base import MOST

ANY_VOCABULARY = 512
"""Of models that are built to be counted without their tables."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A model of a ladder.

    Args:
        config: its settings.
        asked: parameters over those of the model it was made from, both without embeddings, as asked for.
        reached: the same as counted: widths go by whole heads, depths by whole layers.
        aspect: width over depth, over the same of the model that it was made from.
    """

    config: ModelConfig | HubConfig
    asked: float
    reached: float
    aspect: float


def ladder(config: ModelConfig | HubConfig, factor: float) -> Rung:
    """The model with about `factor` times the parameters, without embeddings, and the same head size and aspect ratio.

    Width and depth grow by the cube root of the factor, feed-forward widths with the width, and so does the number of
    heads; experts stay as many. Of the whole numbers of heads and layers near that, those with the smallest
    `|log(reached / asked)| + |log(aspect)|`: a per cent of size counts as much as one of shape (chosen here).

    Args:
        config: the model to start from.
        factor: above 0, at most a million; below 1 makes a smaller model.

    Raises:
        ConfigError: a factor that is no number above 0, or an architecture that cannot be made of that size.

    >>> from rlrs.settings import ModelConfig
    >>> rung = ladder(ModelConfig(d_model=64, n_layers=4, n_heads=4), 27)
    >>> rung.config.d_model, rung.config.n_layers, rung.aspect
    (192, 12, 1.0)
    """
    if isinstance(factor, bool) or not 0 < factor <= MOST:
        raise ConfigError(f"a ladder's factor should be a number above 0, at most {MOST:,.0f}, not {shown(factor)}")
    (units, unit, layers), growth = size_steps(config), factor ** (1 / 3)
    near = [
        (abs(math.log((u / units) ** 2 * (n / layers) / factor)) + abs(math.log(u / units * layers / n)), u, n)
        for u in _around(units * growth)
        for n in _around(layers * growth)
    ]
    start = _counted(config)
    rungs = []
    for _, u, n in sorted(near)[:3]:  # by an estimate; then by the count, in which norms and routers grow otherwise
        rung = at_depth(at_width(config, u * unit), n)
        aspect = u / units * layers / n
        rungs.append(Rung(config=rung, asked=factor, reached=_counted(rung) / start, aspect=aspect))
    return min(rungs, key=lambda rung: abs(math.log(rung.reached / factor)) + abs(math.log(rung.aspect)))


def concrete(scale: ScaleConfig) -> ScaleConfig:
    """A size with its model made out: `scale` times as large, and with the content of the config.json that it names.

    Settings that are concrete are given back as they are.

    Raises:
        ConfigError: an architecture that transformers does not have, or cannot make of that size.

    >>> from rlrs.settings import ModelConfig, ScaleConfig
    >>> scale = ScaleConfig(model=ModelConfig(d_model=16, n_layers=1, n_heads=2), steps=10, batch_size=4)
    >>> concrete(scale) == scale
    True
    """
    model = scale.model
    if isinstance(model, HubConfig):
        from rlrs.models.hub_models import with_content

        model = with_content(model)
    if scale.scale is not None:
        try:
            model = ladder(model, scale.scale).config
        except ValueError as error:
            raise ConfigError(f"scale={scale.scale:g}: {error}") from None
    return scale.model_copy(update={"model": model, "scale": None})


def _around(value: float) -> list[int]:
    """Whole numbers from 1 on at both sides of a value, two on each."""
    return [number for number in range(math.floor(value) - 1, math.ceil(value) + 2) if number >= 1]


def _counted(config: ModelConfig | HubConfig) -> int:
    """Parameters without embeddings."""
    with torch.device("meta"):
        return count_parameters(build_model(config, ANY_VOCABULARY)).non_embedding
