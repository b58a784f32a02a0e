"""Settings of a study and of the training of its runs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from rlrs.messages import shown
from rlrs.settings.base import (
    MOST_STEPS,
    BelowOne,
    Count,
    Decay,
    Factor,
    Fraction,
    NonNegative,
    Positive,
    Settings,
    number,
)
from rlrs.settings.data import DataConfig
from rlrs.settings.guarding import GuardConfig
from rlrs.settings.ladder_config import LadderConfig
from rlrs.settings.machine import MachineConfig
from rlrs.settings.model import AnyModelConfig
from rlrs.settings.searching import Arm, SearchConfig
from rlrs.settings.trainer_config import FILES, GIVEN, TrainerConfig
from rlrs.settings.transformers_config import check_arguments


class TrainingConfig(Settings):
    """What all runs of a study share."""

    warmup_fraction: BelowOne = 0.01
    """Warm-up steps as a share of all steps (the paper: 1 %)."""
    final_fraction: Fraction = 0.0444
    """Base rate at the end over the base peak rate (the paper's MoE value; 1 for `constant`); where a search starts."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    weight_decay: Decay = 0.1
    component_weight_decay: dict[str, Decay] = Field(default_factory=dict)
    """Of components that have their own."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95)
    eps: Factor = 1e-8
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """`adamw` (the paper's); `muon` for the matrices of hidden layers with AdamW for the rest; `sgd`."""
    momentum: BelowOne = 0.95
    """Of Muon and SGD (Nesterov's form)."""
    muon_rate: Factor = 1.0
    """Base rate of what Muon trains over that of what AdamW trains. Muon's updates are scaled to the size of AdamW's,
    so that one rate for both (1) is a sound start; the arm `per_optimizer` and `search.space` search it."""
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
    evaluations: Count = 10
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
    loss_limit: Factor | None = None
    """A training loss above it ends the run as diverged; 1.5 times the loss of a uniform guess if not set, or that of
    the first step where weights are loaded and that is more."""

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

    # Typed as they are for the reference trainer, whose code reads them: a study checks which of them are there.
    model: AnyModelConfig = Field(default=None)  # pyright: ignore[reportAssignmentType]
    """None where the study has a trainer of its own."""
    steps: Annotated[Count, Field(le=MOST_STEPS)]
    batch_size: Count = Field(default=None)  # pyright: ignore[reportAssignmentType]
    """Sequences per step; None where the study has a trainer of its own."""
    set: dict[str, JsonValue] | None = None
    """Of a trainer of its own: what makes this size, by the trainer's own names (`{width: 256}`)."""
    tokens: Count | None = None
    """Of a trainer of its own: tokens of a step, for the page's account."""
    scale: Factor | None = None
    """Of the target in place of `model`: so many times the proxy's parameters, without embeddings, at the proxy's head
    size and aspect ratio. `model` is then the proxy's, and `rlrs.models.concrete` the model of that size."""


class TransferConfig(Settings):
    """How ratios are carried to the target, and base rates tuned there. All arms get the same budget."""

    mode: Literal["unchanged", "law", "sqrt-width", "mup"] = "unchanged"
    """`unchanged`: the proxy's ratios (the paper); `law`: by the laws of the study's `ladder`; `sqrt-width`: the
    embedding's times the square root of the growth in width; `mup`: those of the matrices that the width feeds, divided
    by it. See `rlrs.transfer`."""
    trials: Annotated[Count, Field(le=10_000)] = 5
    """Target runs that each arm may spend on its base rate; it stops when the rates on both sides are worse."""
    multiplier: Annotated[float, BeforeValidator(number), Field(gt=1, le=1000)] = 2.0
    """Grid ratio of the base rates tried: up and down from the proxy's best, downhill."""


class ComparisonConfig(Settings):
    """The measurement: fresh seeds, paired over the arms."""

    arms: tuple[Arm, ...] = ("uniform", "embedding_only", "constant", "rlrs")
    seeds: Annotated[Count, Field(ge=2, le=10_000)] = 3
    """Paired seeds, none of them seen by any search; with `stop: anytime` those before the first look."""
    stop: Literal["fixed", "anytime"] = "fixed"
    """`fixed`: so many seeds, and Student's intervals. `anytime`: further seeds one by one until the arms are told
    apart, up to `max_seeds`, with intervals and tests that hold however often one looks."""
    max_seeds: Annotated[Count, Field(le=10_000)] | None = None
    """Most paired seeds with `stop: anytime`."""
    margin: Positive = 0.02
    """With `stop: anytime`: a gain over the simpler arms of no more than this, in nats per token, is worth no further
    seeds. Chosen here: about the noise of a run."""
    horizons: tuple[Annotated[float, BeforeValidator(number), Field(gt=0, lt=1)], ...] = (0.6, 0.8)
    """Shorter runs of the rlrs arm, as shares of the full steps, each with its own full schedule."""

    @model_validator(mode="after")
    def _arms(self) -> Self:
        if not {"uniform", "rlrs"} <= set(self.arms):
            raise ValueError(f"arms={list(self.arms)} should contain uniform and rlrs")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms={list(self.arms)} names an arm twice")
        return self

    @model_validator(mode="after")
    def _stop(self) -> Self:
        if self.stop == "fixed":
            if self.max_seeds is not None:
                raise ValueError(f"max_seeds={self.max_seeds} is for stop=anytime; stop=fixed runs seeds={self.seeds}")
            return self
        if self.seeds < 3:
            raise ValueError(f"seeds={self.seeds} should be 3 or more with stop=anytime: fewer decide nothing")
        if self.max_seeds is None or self.max_seeds < self.seeds:
            raise ValueError(f"max_seeds={self.max_seeds} should be seeds={self.seeds} or more with stop=anytime")
        return self

    @model_validator(mode="after")
    def _horizons(self) -> Self:
        if len(set(self.horizons)) < len(self.horizons):
            raise ValueError(f"horizons={list(self.horizons)} names a length twice")
        return self

    @property
    def most_seeds(self) -> int:
        """Seeds that are run at most."""
        return self.max_seeds or self.seeds


class EngineConfig(Settings):
    """Where runs are trained. Changes no result: a study may go on with another engine."""

    kind: Literal["processes", "ray"] = "processes"
    """`processes` of this machine, or a `ray` cluster."""
    address: str | None = None
    """Of the Ray cluster (`auto`, HOST:PORT, ray://HOST:PORT); Ray is started on this machine if not set."""
    time_limit: Annotated[Positive, Field(le=1e8)] | None = None
    """Seconds that an attempt at a run may take before it counts as hung: killed, tried again, then given up."""
    cpus: Positive = 1
    """Processor cores of a run, for Ray to place it by."""
    gpus: NonNegative = 0
    """GPUs of a run; a fraction lets several runs share one."""
    ranks: Annotated[Count, Field(le=100_000)] = 1
    """Processes that train one run together, as `torchrun` would start them, each on a GPU of its own: give as many
    GPUs. Changes rounding, no more."""
    resources: dict[str, Positive] = Field(default_factory=dict)
    """What else a run needs of its node, by the names that the nodes of the Ray cluster were started with."""

    @model_validator(mode="after")
    def _for_ray(self) -> Self:
        if self.kind != "ray" and (self.address is not None or self.resources):
            name = "address" if self.address is not None else "resources"
            raise ValueError(f"{name} is for kind=ray, not kind={self.kind}")
        if self.gpus and self.ranks > 1 and self.gpus != self.ranks:
            raise ValueError(f"gpus={self.gpus:g} should be {self.ranks}, one for each of ranks={self.ranks}, or 0")
        return self


def _file_name(name: str) -> str:
    """A study's name, which its folder has."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"should be letters, digits, '.', '_' and '-', a letter or digit first, not {shown(name)}")
    return name


class StudyConfig(Settings):
    """One study: search on a proxy, transfer to a target, comparison.

    Settings as they are written: sizes and files that they name are looked up by `rlrs.study.resolve`.
    """

    name: Annotated[str, Field(max_length=100), AfterValidator(_file_name)]
    trainer: TrainerConfig | None = None
    """A trainer of the user's own; the reference trainer if not set."""
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    proxy: ScaleConfig
    target: ScaleConfig
    search: SearchConfig = SearchConfig()
    ladder: LadderConfig | None = None
    """For a certificate, before any run of the target; see `rlrs.transfer`."""
    transfer: TransferConfig = TransferConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    processes: Annotated[Count, Field(le=10_000)] | None = None
    """Runs trained side by side, one thread each; as many as there are cores if not set. Changes no result."""
    engine: EngineConfig = EngineConfig()
    storage: str | None = None
    """Database URL that several drivers of the study share; its own file in the run directory if not set."""
    guard: GuardConfig | None = None
    """Of the runs of `rlrs train`, which are only observed if not set. Runs of the study itself never have one."""
    machine: MachineConfig | None = None
    """That time and money are reckoned for; money is named nowhere if not set. Changes no result."""

    @model_validator(mode="before")
    @classmethod
    def _scaled_target(cls, values: Any) -> Any:
        target = values.get("target") if isinstance(values, dict) else None
        if not isinstance(target, dict) or target.get("scale") is None:
            return values
        if "model" in target:
            raise ValueError("target should have model or scale, not both")
        proxy = values.get("proxy")
        model = proxy.get("model") if isinstance(proxy, dict) else getattr(proxy, "model", None)
        return {**values, "target": {**target, "model": model}} if model is not None else values

    @model_validator(mode="after")
    def _two_optimizers(self) -> Self:
        if self.training.optimizer != "muon":
            if "per_optimizer" in self.comparison.arms:
                raise ValueError(
                    "comparison.arms: per_optimizer needs two optimizers: training.optimizer should be muon, not "
                    f"{self.training.optimizer}"
                )
            if self.training.muon_rate != 1:
                raise ValueError(
                    f"training.muon_rate={self.training.muon_rate:g} is for training.optimizer=muon, not "
                    f"{self.training.optimizer}"
                )
        return self

    @model_validator(mode="after")
    def _whole_proxy(self) -> Self:
        if self.proxy.scale is not None:
            raise ValueError(f"proxy.scale={self.proxy.scale:g} is for the target, which is scaled from the proxy")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        needed, others = ("model", "batch_size"), ("set", "tokens")
        if self.trainer is not None:
            needed, others = ("set",), ("model", "batch_size", "scale")
        for name in ("proxy", "target"):
            scale = getattr(self, name)
            if missing := [key for key in needed if getattr(scale, key) is None]:
                hint = ": the values that make its size, {} if there are none" if missing == ["set"] else ""
                raise ValueError(f"{name}.{missing[0]} is missing{hint}")
            if given := [key for key in others if getattr(scale, key) is not None]:
                whose = "the reference trainer" if self.trainer is not None else "a trainer of your own"
                raise ValueError(f"{name}.{given[0]} is for {whose}")
        return self

    @model_validator(mode="after")
    def _horizons(self) -> Self:
        horizons, total = self.comparison.horizons, self.target.steps
        if horizons == ComparisonConfig.model_fields["horizons"].default:
            return self  # of a target of a few steps too
        lengths = [round(share * total) for share in horizons]
        for share, steps in zip(horizons, lengths, strict=True):
            if not 0 < steps < total or lengths.count(steps) > 1:
                what = "no step" if not steps else "all of them" if steps == total else f"{steps} as another's"
                raise ValueError(
                    f"comparison.horizons: {share:g} of target.steps={total} is {what}; every horizon should be a "
                    "length of its own"
                )
        return self

    @model_validator(mode="after")
    def _law(self) -> Self:
        if self.transfer.mode == "law" and self.ladder is None:
            raise ValueError("transfer.mode=law needs the laws of a ladder: give ladder.sizes and ladder.horizons")
        if self.ladder is not None and self.search.method == "learned":
            raise ValueError(
                "ladder: its laws are fitted to a search's trials, of which search.method=learned has none"
            )
        if self.ladder is not None and self.trainer is not None:
            if numbers := [size for size in self.ladder.sizes if not isinstance(size, dict)]:
                raise ValueError(
                    f"ladder.sizes: a trainer of your own is not made {numbers[0]:g} times as large; give what differs "
                    "in its `set`"
                )
            for name in ("width", "depth"):
                if getattr(self.trainer, name) is None:
                    raise ValueError(f"trainer.{name} is missing: a ladder needs to know which value of `set` it is")
        by_mup = "mup_width" in self.comparison.arms
        if by_mup and self.ladder is not None:
            raise ValueError(
                "comparison.arms: mup_width has ratios on the target alone, of which the trials of a ladder say "
                "nothing; leave one of the two out"
            )
        if self.transfer.mode in ("sqrt-width", "mup") or by_mup:
            what = "the arm mup_width" if by_mup else f"transfer.mode={self.transfer.mode}"
            if self.trainer is not None and self.trainer.width is None:
                raise ValueError(f"trainer.width is missing: {what} needs to know which value of `set` it is")
        return self

    @model_validator(mode="after")
    def _own_trainer(self) -> Self:
        if self.trainer is None:
            return self
        reads = tuple(DataConfig.model_fields) if self.trainer.transformers is not None else ()
        for section, used in (
            ("training", _OWN_TRAINING),
            ("data", reads),
            ("engine", ("kind", "address", "time_limit", "cpus", "gpus", "resources")),
        ):
            settings = getattr(self, section)
            for name in type(settings).model_fields:
                if name not in used and getattr(settings, name) != type(settings).model_fields[name].get_default(
                    call_default_factory=True
                ):
                    raise ValueError(f"{section}.{name} is not for a trainer of your own")
        if self.guard is not None:
            raise ValueError("guard is for the reference trainer; give your own loop a rlrs.monitoring.Guard")
        if self.machine is not None and self.machine.flops_per_second is not None:
            raise ValueError("machine.flops_per_second: FLOPs of your trainer are not known; give tokens_per_second")
        if self.search.method == "learned":
            raise ValueError(
                "search.method=learned is for the reference trainer; in your own, rlrs.discovery.LearnedLR learns in "
                "one run, and search.prior takes what it has learned"
            )
        if self.search.max_flops is not None:
            raise ValueError("search.max_flops: FLOPs of your trainer are not known; give max_steps or max_hours")
        if self.search.fidelity is not None and self.search.fidelity.width is not None:
            raise ValueError("search.fidelity.width: a trainer of your own has no width that is known; give steps")
        for name in ("proxy", "target"):
            values = getattr(self, name).set
            if taken := [key for key in values if key in GIVEN + FILES]:
                raise ValueError(f"{name}.set.{taken[0]}: the study gives every run its own {taken[0]}")
        optimizer = self.training.optimizer
        if optimizer not in ("adamw", *(() if self.trainer.transformers is not None else ("muon",))):
            raise ValueError(
                f"training.optimizer={optimizer}: the optimizer is your trainer's own; muon says that it has Muon "
                "beside another one, and is for command and call"
            )
        if self.trainer.transformers is not None:
            _check_folders(self)
        for key in ("width", "depth"):
            place = getattr(self.trainer, key)
            for name in ("proxy", "target") if place is not None else ():
                value = (getattr(self, name).set or {}).get(place)
                if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                    raise ValueError(
                        f"trainer.{key}={shown(place)}: {name}.set should have a number above 0 of that name, not "
                        f"{shown(value)}"
                    )
        if different := set(self.proxy.set or {}) ^ set(self.target.set or {}):
            raise ValueError(f"set: proxy and target should have the same names; {min(different)} is in one of them")
        return self


def _check_folders(study: StudyConfig) -> None:
    """See that `set` of both sizes names a folder, and leaves to the study what is the study's."""
    for name in ("proxy", "target"):
        values = getattr(study, name).set
        if not isinstance(values.get("model"), str):
            raise ValueError(f"{name}.set.model should be the folder of a transformers model")
        check_arguments(values, f"{name}.set")


_OWN_TRAINING = (
    *("warmup_fraction", "final_fraction", "schedule", "weight_decay", "component_weight_decay", "betas"),
    *("score_steps", "loss_limit", "optimizer", "muon_rate"),
)
"""Settings of training that are of use to any trainer."""
