"""Any causal language model of transformers, from a config, a folder or the hub, trained like our own.

Shape suffixes: B sequences, T tokens per sequence, N = B * T tokens, D model width, V vocabulary, E experts.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlrs.extras import install
from rlrs.messages import printable, shown
from rlrs.models.adapted import adapted
from rlrs.models.hub_weights import (
    check_vocabulary,
    check_weights,
    content_hash,
    fetched,
    is_hub_name,
    load_weights,
)
from rlrs.models.language_model import LanguageModel, ModelOutput
from rlrs.models.loss import cross_entropy, projected_cross_entropy
from rlrs.models.moe import Routing, load_balancing
from rlrs.settings import ConfigError, HubConfig


class HubTransformer(LanguageModel):
    """A causal language model of transformers with our models' contract: token numbers in, `ModelOutput` out.

    Weights start as transformers starts that architecture, from torch's global generator, or are loaded. A mixture of
    experts adds its own load-balancing loss by its own `router_aux_loss_coef`.

    Args:
        config: which architecture, and what to change in it.
        vocab_size: entries V of the vocabulary; goes before the config's own.

    Raises:
        ConfigError: transformers is missing, has no such architecture, or cannot build it from these values.
    """

    def __init__(self, config: HubConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.model = _build(config, vocab_size)
        if config.lora is not None:
            self.model = adapted(self.model, config.lora)
        accepted = inspect.signature(self.model.forward).parameters
        self._routed, self._slices = "output_router_logits" in accepted, "logits_to_keep" in accepted
        self._projects = False
        if not next(self.parameters()).is_meta:
            self._check_causal()
            self._projects = self._is_plain_projection()

    @property
    def unembedding(self) -> nn.Linear | None:
        """The projection to the vocabulary, if it is one without a bias."""
        head = self.model.get_output_embeddings()
        return head if isinstance(head, nn.Linear) and head.bias is None else None

    @property
    def attention_width(self) -> int:
        """Width of the queries of all heads and layers together; a window is taken as the whole sequence."""
        config = self.model.config
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        layers = sum(kind.endswith("attention") and kind != "linear_attention" for kind in kinds)
        heads = getattr(config, "num_attention_heads", 0)  # a state-space model has none
        if (query := getattr(config, "qk_head_dim", None)) and (value := getattr(config, "v_head_dim", None)):
            return layers * heads * (query + value) // 2
        return layers * heads * (getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1))

    @property
    def used_experts(self) -> Fraction:
        """Share of a block's experts that one token passes; 1 for a dense model."""
        config = self.model.config
        counts = [getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")]
        experts = next((count for count in counts if count), None)
        return Fraction(getattr(config, "num_experts_per_tok", None) or 1, experts) if experts else Fraction(1)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor | None = None) -> ModelOutput:
        """Predict each next token; as `rlrs.models.Transformer.forward`."""
        options: dict[str, Any] = {"output_router_logits": True} if self._routed else {}
        if targets_BT is None or not self._projects:
            output = self.model(inputs_BT, use_cache=False, **options)
            logits_BTV, loss = output.logits, None
            if targets_BT is not None:
                loss = cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), masked=self.masked)
                logits_BTV = None
        else:
            # The logits of one position are made and thrown away: all positions' are never held at once.
            output, hidden_BTD = self._with_hidden(inputs_BT, logits_to_keep=1, **options)
            assert self.unembedding is not None
            loss = projected_cross_entropy(
                hidden_BTD.flatten(0, 1), self.unembedding.weight, targets_BT.flatten(), masked=self.masked
            )
            logits_BTV = None
        routings = self._routings(output)
        auxiliary = None
        if routings and isinstance(balance := getattr(output, "aux_loss", None), Tensor):
            auxiliary = self.model.config.router_aux_loss_coef * balance
        return ModelOutput(loss=loss, auxiliary=auxiliary, logits=logits_BTV, routings=routings)

    def _routings(self, output: Any) -> tuple[Routing, ...]:
        logits = getattr(output, "router_logits", None) or ()
        top_k = getattr(self.model.config, "num_experts_per_tok", 1)
        return tuple(_routing(logits_NE, min(top_k, logits_NE.shape[-1])) for logits_NE in logits)

    def _with_hidden(self, inputs_BT: Tensor, **options: Any) -> tuple[Any, Tensor]:
        """The model's output, and what its body hands to the projection."""
        seen: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(lambda module, args, output: seen.append(output[0]))
        try:
            output = self.model(inputs_BT, use_cache=False, **options)
        finally:
            hook.remove()
        return output, seen[0]

    @torch.no_grad()
    def _check_causal(self) -> None:
        """Try on three tokens that no position sees a later one: some types are encoders unless told otherwise."""
        self.model.eval()
        tokens = [torch.tensor([[0, 1, last]]) for last in (2, 3)]
        try:
            one, other = (self.model(each, use_cache=False).logits[:, :2] for each in tokens)
        except (RuntimeError, ValueError) as error:  # sizes that can be built and do not go together
            raise ConfigError(
                f"hub={shown(self.config.hub)}: does not run with {_values(self.config)}: {_line(error)}"
            ) from None
        self.model.train()
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
            raise ConfigError(f"hub={self.config.hub!r}: a position sees the tokens after it: not a causal model")

    @torch.no_grad()
    def _is_plain_projection(self) -> bool:
        """Whether logits are the last hidden state times the table and nothing else: some scale them or cap them."""
        if not self._slices or self.unembedding is None:
            return False
        self.model.eval()
        output, hidden_BTD = self._with_hidden(torch.tensor([[0, 1]]))
        self.model.train()
        if output.logits.shape[:-1] != hidden_BTD.shape[:-1]:
            return False
        return torch.equal(output.logits, nn.functional.linear(hidden_BTD, self.unembedding.weight))


def _routing(logits_NE: Tensor, top_k: int) -> Routing:
    """A router's choice as our own report it. No expert has a capacity; the losses are for logs."""
    logits_NE = logits_NE.detach().float()
    N, E = logits_NE.shape
    probabilities_NE = logits_NE.softmax(-1)
    chosen = probabilities_NE.topk(top_k, dim=-1).indices
    tokens_E = torch.bincount(chosen.flatten(), minlength=E)
    return Routing(
        probabilities=probabilities_NE,
        tokens=tokens_E,
        capacity=N,
        load_balancing=load_balancing(tokens_E, probabilities_NE, top_k),
        z_loss=logits_NE.logsumexp(-1).square().mean(),
    )


def transformers_config(config: HubConfig, vocab_size: int | None = None) -> Any:
    """The transformers config that a study's `hub` and `overrides` stand for.

    Raises:
        ConfigError: transformers is missing, has no such architecture, or the architecture has no such setting.
    """
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"hub={shown(config.hub)} needs transformers: {install('transformers')}") from None
    check_weights(config)
    given = _given(config)
    kind = given.pop("model_type")
    if kind not in _types():
        near = difflib.get_close_matches(str(kind), list(_types()), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "give a type such as llama, or a local config.json"
        raise ConfigError(f"hub={shown(config.hub)}: {shown(kind)} is no causal language model of transformers; {hint}")
    base = transformers.CONFIG_MAPPING[kind]()
    known = {*base.to_dict(), *base.attribute_map, *_read_if_there(base)}
    known |= {"attn_implementation", "experts_implementation"}
    overrides: dict[str, Any] = {}
    for key, value in config.overrides.items():
        if key in _ROPE and hasattr(base, "rope_parameters") and not hasattr(base, key):
            raise ConfigError(
                f"overrides.{key}: {kind} has it within another setting: rope_parameters: "
                f"{{rope_type: default, {key}: {shown(value)}}}"
            )
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"overrides.{printable(key, 80)}: {kind} has no such setting{hint} (got {shown(value)})")
        overrides[key] = _meant(value, getattr(base, key, None))
    # Marks of a tokenizer that is not ours; a padding mark would also keep one row of the embedding at zero.
    ours: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "use_cache": False}
    if vocab_size is not None and config.weights != "load":
        ours["vocab_size"] = vocab_size
    if hasattr(base, "is_decoder"):
        ours["is_decoder"] = True
    names = base.attribute_map
    merged = {names.get(key, key): value for key, value in {**given, **ours, **overrides}.items()}
    try:
        return transformers.AutoConfig.for_model(kind, **merged)
    except Exception as error:  # each architecture checks in its own way
        raise ConfigError(f"hub={shown(config.hub)}: transformers refuses {_values(config)}: {_line(error)}") from None


def with_content(config: HubConfig) -> HubConfig:
    """A config whose file is read: named by its model type, with what the file holds; checked.

    Left out is what says where the file came from, not what model it is of.

    Raises:
        ConfigError: as `transformers_config`.
    """
    if config.weights == "load" and is_hub_name(config.hub):
        config = config.model_copy(update={"hub": str(fetched(config.hub))})
    transformers_config(config)
    if config.config is not None:
        return config
    if config.weights == "load":
        folder = Path(config.hub).resolve()
        return config.model_copy(update={"hub": str(folder), "content": content_hash(folder, weights=True)})
    given = {key: value for key, value in _given(config).items() if key not in _OF_THE_FILE}
    kind = given.pop("model_type")
    return (
        config.model_copy(update={"hub": kind, "config": given, "weights": None})
        if given or kind != config.hub
        else config
    )


def overrides_at_width(config: HubConfig, d_model: int) -> dict[str, int]:
    """Overrides that make an architecture `d_model` wide: heads in proportion, so of the same size, and hidden widths.

    Raises:
        ValueError: a width at which there would be no whole number of heads.
    """
    if config.weights == "load":
        raise ConfigError(f"hub={config.hub!r}: weights: load is of one width; no narrower runs, no ladder")
    settings = transformers_config(config)
    scale = Fraction(d_model, settings.hidden_size)
    sizes = {"hidden_size": d_model}
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = scale * (getattr(settings, name, None) or 0)
        if d_model < 1 or heads.denominator != 1:
            head = Fraction(settings.hidden_size, getattr(settings, name))
            raise ValueError(f"width should be a multiple of {head}, for a whole {name}, not {d_model!r}")
        if heads:
            sizes[name] = int(heads)
    for name in ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"):
        if hidden := getattr(settings, name, None):
            sizes[name] = max(1, round(scale * hidden))
    if getattr(settings, "n_inner", None):  # GPT-2's name
        sizes["n_inner"] = max(1, round(scale * settings.n_inner))
    return {settings.attribute_map.get(name, name): size for name, size in sizes.items()}


_ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor")
"""What transformers 5 has moved into `rope_parameters`."""
_OF_THE_FILE = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype")


def _meant(value: Any, default: Any) -> Any:
    """A setting as the number that it is meant as, where the architecture's own value is one: `"1e-6"`, `1e3`."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return value
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value  # transformers says what it thinks of that
    if isinstance(value, float) and isinstance(default, int) and value.is_integer():
        return int(value)
    return value


def _types() -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _read_if_there(base: Any) -> set[str]:
    """Settings that an architecture reads when they are there, though its config declares no default for them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    source = inspect.getsource(sys.modules[MODEL_FOR_CAUSAL_LM_MAPPING[type(base)].__module__])
    return set(re.findall(r"getattr\((?:self\.)?config, \"(\w+)\"", source))


def _given(config: HubConfig) -> dict[str, Any]:
    """What is given before the overrides: a config.json's own values, or a type and its defaults."""
    if config.config is not None:
        return {**config.config, "model_type": config.hub}
    path = Path(config.hub)
    if path.is_dir():
        path = path / "config.json"
    elif path.suffix != ".json":
        return {"model_type": config.hub}
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"hub={shown(config.hub)}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"hub={shown(config.hub)}: is not JSON: {error}") from None
    if not isinstance(given, dict) or not isinstance(given.get("model_type"), str):
        raise ConfigError(f"hub={shown(config.hub)}: is no transformers config: it has no model_type")
    return given


def _build(config: HubConfig, vocab_size: int) -> Any:
    settings = transformers_config(config, vocab_size)
    loads = config.weights == "load"
    if loads and torch.get_default_device().type != "meta":
        return load_weights(config, settings, vocab_size)
    import transformers

    try:
        model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
        rows = model.get_input_embeddings().num_embeddings
    except Exception as error:
        raise ConfigError(f"hub={shown(config.hub)}: cannot be built with {_values(config)}: {_line(error)}") from None
    if loads:
        check_vocabulary(config, rows, vocab_size)
    elif rows != vocab_size:
        raise ConfigError(
            f"hub={shown(config.hub)}: its vocabulary cannot be set: it has {rows} entries, not {vocab_size}"
        )
    return model


def _values(config: HubConfig) -> str:
    return f"overrides={shown(config.overrides, 300)}" if config.overrides else "its own defaults"


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()), 500) or type(error).__name__
