"""A model's settings at another width or depth, and with the sizes and files that they name looked up."""

from __future__ import annotations

import math

from rlrs.settings import HubConfig, ModelConfig


def at_width(config: ModelConfig | HubConfig, d_model: int) -> ModelConfig | HubConfig:
    """The same model at another width: same head size, heads and feed-forward widths in proportion.

    >>> from rlrs.settings import ModelConfig
    >>> at_width(ModelConfig(d_model=16, n_heads=2, d_ff=24), 40).n_heads
    5

    Raises:
        ValueError: a width at which heads would not be whole.
    """
    if isinstance(config, HubConfig):
        from rlrs.models.hub_models import overrides_at_width

        return config.model_copy(update={"overrides": {**config.overrides, **overrides_at_width(config, d_model)}})
    head = config.d_model // config.n_heads
    if d_model < 1 or d_model % head:
        raise ValueError(f"width should be a multiple of the head size {head}, not {d_model!r}")
    sizes = {"d_model": d_model, "n_heads": d_model // head}
    if config.d_ff is not None:
        parts = config.granularity
        sizes["d_ff"] = parts * max(1, round(config.d_ff * d_model / config.d_model / parts))
    return config.model_copy(update=sizes)


def at_depth(config: ModelConfig | HubConfig, n_layers: int) -> ModelConfig | HubConfig:
    """The same model with another number of blocks.

    >>> from rlrs.settings import ModelConfig
    >>> at_depth(ModelConfig(n_layers=4), 6).n_layers
    6
    """
    if isinstance(config, HubConfig):
        from rlrs.models.hub_models import transformers_config

        name = transformers_config(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
        return config.model_copy(update={"overrides": {**config.overrides, name: n_layers}})
    return config.model_copy(update={"n_layers": n_layers})


def size_steps(config: ModelConfig | HubConfig) -> tuple[int, int, int]:
    """The steps that the width has now, the width of one (the least that keeps heads whole), and the layers.

    >>> from rlrs.settings import ModelConfig
    >>> size_steps(ModelConfig(d_model=64, n_heads=4, n_layers=3))
    (4, 16, 3)
    """
    if isinstance(config, HubConfig):
        from rlrs.models.hub_models import transformers_config

        settings = transformers_config(config)
        heads = settings.num_attention_heads
        steps = math.gcd(heads, getattr(settings, "num_key_value_heads", None) or heads)
        return steps, settings.hidden_size // steps, settings.num_hidden_layers
    return config.n_heads, config.d_model // config.n_heads, config.n_layers
