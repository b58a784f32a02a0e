"""A study's settings: frozen, typed, validated at construction; read from and written to YAML.

Every unknown key, wrong type and value out of range is a `ConfigError` of one line that names the key, the
value and what would be right.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)


class ConfigError(ValueError):
    """Settings that cannot be used; the message says which, where, and what would be right."""


def _number(value: Any) -> Any:
    # YAML 1.1 reads `3e-3` as text and `yes` as a boolean: take the first as the number it is, refuse the second.
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {value!r}")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"should be a number, not {value!r}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"should be a finite number, not {value!r}")
    return value


Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Arm = Literal["uniform", "embedding_only", "constant", "rlrs"]
"""One side of a comparison: see `rlrs.comparison.arms`."""


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(Settings):
    """Where the text comes from and how it becomes tokens (docs/data.md)."""

    source: str | tuple[str, ...] = "stdlib"
    """`stdlib` (the Python standard library's own source), `files:GLOB` or a list of such globs (text, jsonl and
    parquet, plain or compressed), or `hf:NAME` (a data set by name, or a local folder)."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """Field of a document's text, in jsonl, parquet and data sets."""
    config_name: str | None = None
    """Configuration of an `hf:` data set (its subset)."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Split of an `hf:` data set that is read."""
    valid_split: str | None = None
    """Split of an `hf:` data set to validate on; if not set, a share of `split` is kept for it."""
    revision: str | None = None
    """Commit, tag or branch of an `hf:` data set on the hub."""
    damaged: Literal["refuse", "skip"] = "refuse"
    """Files and lines that are damaged or empty: stop and name them, or leave them out and name them."""
    folder: str | None = None
    """Where tokens are kept, each kind in a folder of its own, for all studies that name it; the run directory if not
    set. Changes no result."""
    tokenizer: Annotated[str, Field(min_length=1)] = "bpe"
    """`bpe` (learnt from the training text), `bytes` (one token a byte), or a path: a tokenizer.json, or a folder with
    one or with a transformers tokenizer."""
    end_token: str | None = None
    """End-of-text mark of a tokenizer that is given by path; as its own files say, if not set."""
    vocab_size: Annotated[int, Field(ge=257)] = 1024
    """Entries of the `bpe` vocabulary, the 256 bytes and the end-of-text mark included."""
    vocab_sample: Count = 64_000_000
    """Bytes of training text that the `bpe` vocabulary is learnt from, spread over the corpus."""
    sequence_length: Annotated[int, Field(ge=2)] = 128
    """Tokens per training sequence."""
    valid_fraction: Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)] = 0.05
    """Share that is kept for validation: of the text files by bytes, of documents in jsonl, parquet and data sets."""
    max_bytes: Count | None = None
    """Use only about this many bytes of text (whole files in hash order, the first documents of jsonl, parquet and data
    sets); all of it if not set."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sources = [self.source] if isinstance(self.source, str) else list(self.source)
        if not sources:
            raise ValueError(
                "source is an empty list; it should be 'stdlib', 'files:GLOB', 'hf:NAME' or a list of globs"
            )
        for source in sources:
            kind, colon, rest = source.partition(":")
            known = source == "stdlib" or (colon and rest and kind in ("files", "hf"))
            if not known or (kind != "files" and not isinstance(self.source, str)):
                raise ValueError(f"{source=} should be 'stdlib', 'files:GLOB', 'hf:NAME' or a list of 'files:' globs")
        if not sources[0].startswith("hf:"):
            for name in ("config_name", "valid_split", "revision"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f"{name}={value!r} is for 'hf:' sources only")
        if self.tokenizer in ("bpe", "bytes") and self.end_token is not None:
            raise ValueError(
                f"end_token={self.end_token!r} is for a tokenizer given by path; {self.tokenizer} has its own"
            )
        if self.tokenizer != "bpe" and self.vocab_size != type(self).model_fields["vocab_size"].default:
            raise ValueError(
                f"vocab_size={self.vocab_size} is for tokenizer 'bpe'; {self.tokenizer!r} has its own size"
            )
        return self


class ModelConfig(Settings):
    """A decoder-only Transformer; dense, or Switch mixture of experts when `n_experts` > 0."""

    d_model: Count = 64
    n_layers: Count = 4
    n_heads: Count = 4
    d_ff: Count | None = None
    """Hidden width of one feed-forward block or expert; 8/3 of `d_model`, rounded up to 8, if not set."""
    n_experts: Annotated[int, Field(ge=0)] = 0
    """Experts per block; 0 is a dense model."""
    capacity_factor: Positive = 1.0
    """Tokens an expert takes, as a multiple of an even share; the others pass by the residual (Switch)."""
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

    def at_width(self, d_model: int) -> Self:
        """The same model at another width: same head size, feed-forward width in proportion.

        Raises:
            ValueError: a width that is no multiple of the head size.
        """
        head = self.d_model // self.n_heads
        if d_model < 1 or d_model % head:
            raise ValueError(f"width should be a multiple of the head size {head}, not {d_model!r}")
        d_ff = None if self.d_ff is None else max(1, round(self.d_ff * d_model / self.d_model))
        return self.model_copy(update={"d_model": d_model, "n_heads": d_model // head, "d_ff": d_ff})

    @property
    def hidden(self) -> int:
        """Width of one feed-forward block or expert."""
        return self.d_ff or 8 * math.ceil(self.d_model / 3)


class HubConfig(Settings):
    """A causal language model of transformers, built from a config: nothing is downloaded."""

    hub: str
    """A model type (llama, olmoe, gpt2, ...), or a local config.json or the folder that holds one."""
    overrides: dict[str, Any] = {}
    """Its settings that differ from the type's defaults or from the file, by transformers' own names
    (hidden_size, num_hidden_layers, ...). The vocabulary's size is the data's."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        from rlrs.models.hub import transformers_config

        transformers_config(self)
        return self

    def at_width(self, d_model: int) -> Self:
        """The same model at another width: same head size, heads and feed-forward widths in proportion.

        Raises:
            ValueError: a width at which heads would not be whole.
        """
        from rlrs.models.hub import overrides_at_width

        return self.model_copy(update={"overrides": {**self.overrides, **overrides_at_width(self, d_model)}})


AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("ModelConfig")] | Annotated[HubConfig, Tag("HubConfig")],
    Discriminator(lambda model: "HubConfig" if _is_hub(model) else "ModelConfig"),
]
"""One of our models, or with the key `hub` one of transformers'."""
_TAGGED: dict[int | str, type[BaseModel]] = {"ModelConfig": ModelConfig, "HubConfig": HubConfig}


def _is_hub(model: Any) -> bool:
    return isinstance(model, HubConfig) or (isinstance(model, dict) and "hub" in model)


class TrainingConfig(Settings):
    """What all runs of a study share."""

    warmup_fraction: Fraction = 0.01
    """Warm-up steps as a share of all steps (the paper: 1 %)."""
    final_fraction: Fraction = 0.0444
    """Base rate at the end over the base peak rate (the paper's MoE value; 1 for `constant`); where a search starts."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    weight_decay: NonNegative = 0.1
    component_weight_decay: dict[str, NonNegative] = {}
    """Of components that have their own."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """`adamw` (the paper's); `muon` for the matrices of hidden layers with AdamW for the rest; `sgd`."""
    momentum: Fraction = 0.95
    """Of Muon and SGD (Nesterov's form)."""
    clip: Positive = 1.0
    """Largest norm of all gradients together."""
    accumulate: Count = 1
    """Parts that a batch is trained in, one after another, for less memory; a mixture's routers see one at a time."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of matrix products (autocast; weights and optimizer stay float32). `auto` measures once in a run directory, on
    the target, which is faster; dtype.json there keeps the answer for all its runs."""
    compile: bool = False
    """Compile the model (torch.compile): takes a minute at the start of every process."""
    distributed: Literal["ddp", "fsdp2"] = "ddp"
    """How the ranks of `torchrun` share a model: each has all of it, or each a part. Changes rounding, no more."""
    eval_tokens: Count = 32_768
    """Size of the fixed validation sample, rounded down to whole batches."""
    evaluations: Annotated[int, Field(ge=1)] = 10
    """Validation points per run, evenly spaced; the last is at the end."""
    log_every: Count = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Count = 100
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """How many of the last checkpoints stay; if one is damaged, the one before it is used."""
    tensorboard: bool = False
    """Write what metrics.jsonl has for TensorBoard too."""
    score_steps: Count = 100
    """A trial's score is the training loss averaged over this many last steps (the paper: 100)."""
    loss_limit: Positive | None = None
    """A training loss above it ends the run as diverged; 1.5 times the loss of a uniform guess if not set."""

    @model_validator(mode="before")
    @classmethod
    def _constant_end(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("schedule") == "constant":
            return {"final_fraction": 1.0, **values}
        return values

    @model_validator(mode="after")
    def _constant(self) -> Self:
        if self.schedule == "constant" and self.final_fraction != 1:
            raise ValueError(f"final_fraction={self.final_fraction} should be 1: a constant schedule ends at its peak")
        return self


class ScaleConfig(Settings):
    """One size: the proxy that is searched on, or the target that is transferred to."""

    model: AnyModelConfig
    steps: Count
    batch_size: Count
    """Sequences per step."""


class FidelityConfig(Settings):
    """Cheap runs that a search is made on, before its best points are trained whole."""

    steps: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] = 1.0
    """Steps of a cheap run as a share of the proxy's; it has its own full schedule."""
    width: Count | None = None
    """Model width of a cheap run, a multiple of the head size; the proxy's own if not set."""
    verify: Count = 4
    """Points that are trained whole at the end, the start among them."""


class RetestConfig(Settings):
    """The best points tested again on new seeds, so that a point that was lucky on one seed does not win.

    Left out where it would take more than a quarter of the trials.
    """

    points: Annotated[int, Field(ge=0)] = 2
    seeds: Annotated[int, Field(ge=0)] = 2


class SearchConfig(Settings):
    """How the ratios are found on the proxy. All arms get the same budget."""

    method: str = "response-surface"
    """`response-surface`, `local` (the paper's), `trust-region`, `gp`, `tpe`, `cma-es`, `policy-gradient`, `random`, or
    the import path of an Optuna sampler."""
    options: dict[str, Any] = {}
    """Arguments of an Optuna sampler that is given by its import path."""
    space: dict[str, Any] = {}
    """What is searched beside base rate, final fraction and all ratios, and what is not: see `rlrs.search.space`."""
    prune: Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)] = 0.0
    """Chance that a trial is ended early which would have beaten the best before it; 0 ends none early."""
    fidelity: FidelityConfig | None = None
    retest: RetestConfig = RetestConfig()
    trials: Count = 48
    """Runs' worth of training steps that each arm may spend on the proxy; it may stop earlier."""
    max_steps: Count | None = None
    """Training steps that each arm may spend on the proxy, besides its number of runs; no limit if not set."""
    max_flops: Positive | None = None
    """The same in FLOPs."""
    max_hours: Positive | None = None
    """The same in hours of training, summed over runs: unlike the others it depends on the machine."""
    start: str = "uniform"
    """Ratios the search starts from: a preset, or a path to a ratios.yaml."""
    lr: Positive = 4e-3
    """Base peak rate that every arm's search starts from."""
    multipliers: tuple[Positive, ...] = (0.2, 2 / 3, 1.5, 5.0)
    """Each parameter in turn is tried at these multiples of its current value (the paper's)."""
    sweeps: Count = 30
    """Most passes over all parameters."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the order of parameters, and of the trials' model and data."""


class TransferConfig(Settings):
    """How the arms' base rates are tuned on the target. All arms get the same budget."""

    trials: Count = 5
    """Target runs that each arm may spend on its base rate; it stops when the rates on both sides are worse."""
    multiplier: Annotated[float, BeforeValidator(_number), Field(gt=1)] = 2.0
    """Grid ratio of the base rates tried: up and down from the proxy's best, downhill."""


class ComparisonConfig(Settings):
    """The measurement: fresh seeds, paired over the arms."""

    arms: tuple[Arm, ...] = ("uniform", "embedding_only", "rlrs")
    seeds: Annotated[int, Field(ge=2)] = 3
    """Paired seeds, none of them seen by any search."""
    horizons: tuple[Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)], ...] = (0.6, 0.8)
    """Shorter runs of the rlrs arm, as shares of the full steps, each with its own full schedule."""

    @model_validator(mode="after")
    def _arms(self) -> Self:
        if not {"uniform", "rlrs"} <= set(self.arms):
            raise ValueError(f"arms={list(self.arms)} should contain uniform and rlrs")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms={list(self.arms)} names an arm twice")
        return self


class EngineConfig(Settings):
    """Where runs are trained. Changes no result: a study may go on with another engine."""

    kind: Literal["processes", "ray"] = "processes"
    """`processes` of this machine, or a `ray` cluster."""
    address: str | None = None
    """Of the Ray cluster (`auto`, HOST:PORT, ray://HOST:PORT); Ray is started on this machine if not set."""
    time_limit: Positive | None = None
    """Seconds that an attempt at a run may take before it counts as hung: killed, tried again, then given up."""
    cpus: Positive = 1
    """Processor cores of a run, for Ray to place it by."""
    gpus: NonNegative = 0
    """GPUs of a run; a fraction lets several runs share one."""
    resources: dict[str, Positive] = {}
    """What else a run needs of its node, by the names that the nodes of the Ray cluster were started with."""

    @model_validator(mode="after")
    def _for_ray(self) -> Self:
        if self.kind != "ray" and (self.address is not None or self.resources):
            name = "address" if self.address is not None else "resources"
            raise ValueError(f"{name} is for kind=ray, not kind={self.kind}")
        return self


class StudyConfig(Settings):
    """One study: search on a proxy, transfer to a target, comparison."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    proxy: ScaleConfig
    target: ScaleConfig
    search: SearchConfig = SearchConfig()
    transfer: TransferConfig = TransferConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    processes: Count | None = None
    """Runs trained side by side, one thread each; as many as there are cores if not set. Changes no result."""
    engine: EngineConfig = EngineConfig()
    storage: str | None = None
    """Database URL that several drivers of the study share; its own file in the run directory if not set."""


CHANGES_NO_RESULT: dict[str, Any] = {
    "processes": True,
    "engine": True,
    "storage": True,
    "training": frozenset({"distributed", "keep_checkpoints", "tensorboard"}),
}
"""Settings with which a study, or a run of it, may go on though it began with others; in pydantic's `exclude` form."""


def load_study(path: str | Path) -> StudyConfig:
    """Read and validate a study.yaml.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or says something that is not a valid study.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: should be a mapping with the keys of a study, not {type(raw).__name__}")
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from None


def fingerprint(settings: Settings, *, without: Mapping[str, Any] | None = None) -> str:
    """Hash of settings as 12 hex digits; equal settings have equal hashes whatever their YAML looked like."""
    text = json.dumps(changing(settings, without or {}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changing(settings: Settings, without: Mapping[str, Any] = CHANGES_NO_RESULT) -> dict[str, Any]:
    """The settings that decide results, as JSON would hold them."""
    exclude: Any = {key: what if what is True else set(what) for key, what in without.items()}
    return settings.model_dump(mode="json", exclude=exclude)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if part not in _TAGGED)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key {where!r}; {hint}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    value = problem["input"]
    shown = "" if isinstance(value, dict) or repr(value) in message else f" (got {value!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Names of the settings that may stand at a place in a study."""
    cls: type[BaseModel] = StudyConfig
    for part in location:
        if part in _TAGGED:
            cls = _TAGGED[part]
            continue
        annotation = cls.model_fields[str(part)].annotation
        options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        # A choice of models is settled by the tag that follows.
        cls = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), cls)
    return list(cls.model_fields)
