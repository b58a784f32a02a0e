"""Settings of a model: ours, or one of transformers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, model_validator

from rlrs.settings.base import Count, CountFrom0, Decay, Factor, Positive, Settings, number


class ModelConfig(Settings):
    """A decoder-only Transformer; dense, or a mixture of experts (Switch by default) when `n_experts` > 0."""

    d_model: Annotated[Count, Field(le=2**20)] = 64
    n_layers: Annotated[Count, Field(le=10_000)] = 4
    n_heads: Count = 4
    d_ff: Annotated[Count, Field(le=2**24)] | None = None
    """Hidden width of a feed-forward block, or of an expert before `granularity` splits it; 8/3 of `d_model`, rounded
    up to 8 and to `granularity`, if not set."""
    n_experts: Annotated[CountFrom0, Field(le=2**16)] = 0
    """Experts per block that tokens are routed to; 0 is a dense model."""
    top_k: Count = 1
    """Experts that each token is routed to."""
    normalise_gates: bool = False
    """Divide the weights of a token's experts by their sum; else they are the router's probabilities."""
    capacity_factor: Factor | None = 1.0
    """Choices an expert takes, as a multiple of an even share; the others pass by the residual (Switch). `null` is
    dropless: every expert takes all that choose it."""
    n_shared_experts: Annotated[CountFrom0, Field(le=2**16)] = 0
    """Experts that every token passes beside its routed ones (DeepSeekMoE)."""
    granularity: Annotated[Count, Field(le=2**16)] = 1
    """Every expert split into this many narrower ones, of which a token passes as many times more: the same weights in
    all and for one token, the router's apart (Krajewski et al., 2024)."""
    load_balancing: Decay = 0.01
    """Weight of the load-balancing loss (Fedus et al., 2021)."""
    z_loss: Decay = 0.001
    """Weight of the router z-loss (Zoph et al., 2022)."""
    init_scale: Factor = 0.15
    """Truncated normal of standard deviation sqrt(init_scale / fan_in)."""
    tie_embeddings: bool = False
    rope_theta: Annotated[Positive, Field(le=1e12)] = 10_000.0

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


class LoraConfig(Settings):
    """Low-rank adapters on frozen weights, placed by PEFT (Hu et al., 2021, arXiv:2106.09685). Names are PEFT's."""

    r: Annotated[Count, Field(le=2**16)] = 8
    """Rank of the two matrices B A that are added to a weight."""
    alpha: Factor = 16.0
    """They are scaled by `alpha / r`."""
    dropout: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """Of what comes into an adapter, in training."""
    target_modules: Annotated[str, Field(min_length=1)] | tuple[str, ...] = "all-linear"
    """`all-linear` (every linear layer but the head), names of layers (`[q_proj, v_proj]`), or a regular expression."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained whole beside the adapters: `[embed_tokens, lm_head]`."""


class HubConfig(Settings):
    """A causal language model of transformers: from a config, or with weights from a folder or from the hub."""

    hub: str
    """A model type (llama, olmoe, gpt2, ...), or a local config.json or the folder that holds one; with `weights: load`
    also a name on the hub (`ORGANISATION/NAME`)."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Its settings that differ from the type's defaults or from the file, by transformers' own names
    (hidden_size, num_hidden_layers, ...). The vocabulary's size is the data's."""
    weights: Literal["random", "load"] | None = None
    """Of a folder: `load` its weights, or take the architecture alone (`random`). To be said of every folder, so that
    none is trained from scratch by mistake."""
    lora: LoraConfig | None = None
    """Train low-rank adapters on the loaded weights, which stay as they are; all weights if not set."""
    config: dict[str, Any] | None = None
    """What the config.json holds; `hub` is then its model type. A study is run with it in the place of a path, so that
    it is the same study where the file has moved, and another one where it has changed (`rlrs.models.concrete`)."""
    content: str | None = None
    """Hash of the config.json and the weights of a folder whose weights are loaded, set when a study is resolved: what
    the folder holds is part of a run's identity, and where it is is not."""

    @model_validator(mode="after")
    def _adapts_something(self) -> Self:
        if self.lora is not None and self.weights != "load":
            raise ValueError(f"lora adapts weights that are loaded: say weights: load, not {self.weights}")
        return self


AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("ModelConfig")] | Annotated[HubConfig, Tag("HubConfig")],
    Discriminator(lambda model: "HubConfig" if _is_hub(model) else "ModelConfig"),
]
"""One of our models, or with the key `hub` one of transformers'."""
TAGGED: dict[int | str, type[BaseModel]] = {"ModelConfig": ModelConfig, "HubConfig": HubConfig}


def _is_hub(model: Any) -> bool:
    return isinstance(model, HubConfig) or (isinstance(model, dict) and "hub" in model)
