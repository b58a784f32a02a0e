"""Settings of a model: ours, or one of transformers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from rlrs.settings.base import Count, NonNegative, Positive, Settings


class ModelConfig(Settings):
    """A decoder-only Transformer; dense, or a mixture of experts (Switch by default) when `n_experts` > 0."""

    d_model: Count = 64
    n_layers: Count = 4
    n_heads: Count = 4
    d_ff: Count | None = None
    """Hidden width of a feed-forward block, or of an expert before `granularity` splits it; 8/3 of `d_model`, rounded
    up to 8 and to `granularity`, if not set."""
    n_experts: Annotated[int, Field(ge=0)] = 0
    """Experts per block that tokens are routed to; 0 is a dense model."""
    top_k: Count = 1
    """Experts that each token is routed to."""
    normalise_gates: bool = False
    """Divide the weights of a token's experts by their sum; else they are the router's probabilities."""
    capacity_factor: Positive | None = 1.0
    """Choices an expert takes, as a multiple of an even share; the others pass by the residual (Switch). `null` is
    dropless: every expert takes all that choose it."""
    n_shared_experts: Annotated[int, Field(ge=0)] = 0
    """Experts that every token passes beside its routed ones (DeepSeekMoE)."""
    granularity: Count = 1
    """Every expert split into this many narrower ones, of which a token passes as many times more: the same weights in
    all and for one token, the router's apart (Krajewski et al., 2024)."""
    load_balancing: NonNegative = 0.01
    """Weight of the load-balancing loss (Fedus et al., 2021)."""
    z_loss: NonNegative = 0.001
    """Weight of the router z-loss (Zoph et al., 2022)."""
    init_scale: Positive = 0.15
    """Truncated normal of standard deviation sqrt(init_scale / fan_in)."""
    tie_embeddings: bool = False
    rope_theta: Positive = 10_000.0

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"d_model={self.d_model} should be a multiple of n_heads={self.n_heads}, "
                "with an even head size (rotary position)"
            )
        return self

    @model_validator(mode="after")
    def _experts(self) -> Self:
        if not self.n_experts:
            for name in ("top_k", "normalise_gates", "capacity_factor", "n_shared_experts", "granularity"):
                value = getattr(self, name)
                # A factor alone has always been passed over: one study file serves both kinds.
                if value != type(self).model_fields[name].default and not isinstance(value, float):
                    raise ValueError(f"{name}={value} is for a mixture of experts, and n_experts is 0")
        elif self.top_k > self.n_experts:
            raise ValueError(f"top_k={self.top_k} should be at most n_experts={self.n_experts}")
        if self.normalise_gates and self.active_experts == 1:
            raise ValueError("normalise_gates with top_k=1 makes every weight 1, and the router learns nothing")
        if self.hidden % self.granularity:
            raise ValueError(
                f"granularity={self.granularity} should divide the hidden width {self.hidden} (d_ff) of an expert"
            )
        return self

    def at_width(self, d_model: int) -> Self:
        """The same model at another width: same head size, feed-forward width in proportion.

        Raises:
            ValueError: a width that is no multiple of the head size.
        """
        head = self.d_model // self.n_heads
        if d_model < 1 or d_model % head:
            raise ValueError(f"width should be a multiple of the head size {head}, not {d_model!r}")
        sizes = {"d_model": d_model, "n_heads": d_model // head}
        if self.d_ff is not None:
            sizes["d_ff"] = self.granularity * max(1, round(self.d_ff * d_model / self.d_model / self.granularity))
        return self.model_copy(update=sizes)

    def at_depth(self, n_layers: int) -> Self:
        """The same model with another number of blocks."""
        return self.model_copy(update={"n_layers": n_layers})

    def size_steps(self) -> tuple[int, int, int]:
        """The steps that the width has now, the width of one (a head), and the number of layers."""
        return self.n_heads, self.d_model // self.n_heads, self.n_layers

    @property
    def hidden(self) -> int:
        """Width of a feed-forward block, or of an expert before `granularity` splits it."""
        unit = math.lcm(8, self.granularity)
        return self.d_ff or unit * math.ceil(8 * self.d_model / (3 * unit))

    @property
    def routed_experts(self) -> int:
        """Experts of a block, as fine as `granularity` makes them, that a router chooses from."""
        return self.n_experts * self.granularity

    @property
    def active_experts(self) -> int:
        """How many of `routed_experts` one token passes."""
        return self.top_k * self.granularity


class HubConfig(Settings):
    """A causal language model of transformers, built from a config: nothing is downloaded."""

    hub: str
    """A model type (llama, olmoe, gpt2, ...), or a local config.json or the folder that holds one."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Its settings that differ from the type's defaults or from the file, by transformers' own names
    (hidden_size, num_hidden_layers, ...). The vocabulary's size is the data's."""
    weights: Literal["random", "load"] | None = None
    """Of a folder that holds weights: `load` them, or take the architecture alone (`random`). To be said if there are
    any."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        from rlrs.models.hub_models import transformers_config

        transformers_config(self)
        return self

    def at_width(self, d_model: int) -> Self:
        """The same model at another width: same head size, heads and feed-forward widths in proportion.

        Raises:
            ValueError: a width at which heads would not be whole.
        """
        from rlrs.models.hub_models import overrides_at_width

        return self.model_copy(update={"overrides": {**self.overrides, **overrides_at_width(self, d_model)}})

    def at_depth(self, n_layers: int) -> Self:
        """The same model with another number of layers."""
        from rlrs.models.hub_models import transformers_config

        name = transformers_config(self).attribute_map.get("num_hidden_layers", "num_hidden_layers")
        return self.model_copy(update={"overrides": {**self.overrides, name: n_layers}})

    def size_steps(self) -> tuple[int, int, int]:
        """The steps that the width has now, the width of one (the least that keeps heads whole), and the layers."""
        from rlrs.models.hub_models import transformers_config

        settings = transformers_config(self)
        heads = settings.num_attention_heads
        steps = math.gcd(heads, getattr(settings, "num_key_value_heads", None) or heads)
        return steps, settings.hidden_size // steps, settings.num_hidden_layers


AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("ModelConfig")] | Annotated[HubConfig, Tag("HubConfig")],
    Discriminator(lambda model: "HubConfig" if _is_hub(model) else "ModelConfig"),
]
"""One of our models, or with the key `hub` one of transformers'."""
TAGGED: dict[int | str, type[BaseModel]] = {"ModelConfig": ModelConfig, "HubConfig": HubConfig}


def _is_hub(model: Any) -> bool:
    return isinstance(model, HubConfig) or (isinstance(model, dict) and "hub" in model)
