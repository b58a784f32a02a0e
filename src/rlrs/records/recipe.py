"""What a study hands out: ratios, and every other setting that was found with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from torch import nn

from rlrs.components import partition
from rlrs.messages import printable, shown
from rlrs.presets import layer_decay, lora_plus
from rlrs.ratios import BASE, Ratios
from rlrs.records.frozen import Rate, Record, RecordError, first_problem
from rlrs.schedules import BaseSchedule, warmup_steps
from rlrs.settings import TrainingConfig

_KNOT = re.compile(r"(\d+(?:\.\d+)?)%")
_BETAS = ("beta1", "beta2")
_FACTORS = ("layer_decay", "lora_plus")
_MADE_OF = (*_FACTORS, "tower_decay")
_OF_TOWER = ".layer_decay"


class Recipe(Record):
    """The rates of a run and what they were found with: one complete set, whatever of it a search moved.

    The settings beside the ratios belong to them: a base rate or a weight decay that was found together with ratios
    is not the best one without them.
    """

    lr: Rate
    """Base peak rate on the proxy."""
    target_lr: Rate | None = None
    """Base peak rate on the target; None before it was tuned there."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_fraction: float = Field(default=0.01, ge=0, le=1)
    """Warm-up steps as a share of all steps."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Base rate at the end over its peak; 1 for `constant`."""
    weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    component_weight_decay: dict[str, float] = Field(default_factory=dict)
    """Of components that have their own."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of Adam."""
    muon_rate: float | None = Field(default=None, gt=0, le=1e6)
    """Base rate of what Muon trains over that of what AdamW trains; None leaves a study's own."""
    init_scale: float | None = Field(default=None, gt=0, le=1e6)
    """Of the model's initialisation where a search found one; None leaves the model's own."""
    layer_decay: float | None = Field(default=None, gt=0, le=1e6)
    """Factor from a layer to the one below it; what `on` makes ratios of."""
    lora_plus: float | None = Field(default=None, gt=0, le=1e6)
    """Rate of LoRA's second matrices over that of the first; what `on` makes ratios of."""
    tower_decay: dict[str, float] = Field(default_factory=dict)
    """Tower -> its own factor in the place of `layer_decay`."""
    ratios: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict)
    """Component -> knots (progress, ratio), as `Ratio.knots`; components not named follow the base rate."""

    @field_validator("betas")
    @classmethod
    def _betas(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"should be two numbers from 0 to 1, each below 1, not {list(betas)}")
        return betas

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if self.schedule == "constant" and self.final_fraction != 1:
            raise ValueError(f"final_fraction should be 1 with a constant schedule, not {self.final_fraction!r}")
        for component, decay in self.component_weight_decay.items():
            if decay < 0:
                raise ValueError(f"weight decay of {printable(component, 60)} should be 0 or more, not {decay!r}")
        self.relative_rates()
        return self

    @classmethod
    def from_settings(cls, training: TrainingConfig, lr: float) -> Recipe:
        """What a study's settings say, before anything was found: no ratios.

        Args:
            training: of the study.
            lr: base peak rate.
        """
        return cls(
            lr=lr,
            schedule=training.schedule,
            warmup_fraction=training.warmup_fraction,
            final_fraction=training.final_fraction,
            weight_decay=training.weight_decay,
            component_weight_decay=training.component_weight_decay,
            betas=training.betas,
            muon_rate=training.muon_rate if training.optimizer == "muon" else None,
        )

    @classmethod
    def from_ratios(cls, ratios: Ratios, defaults: Recipe) -> Recipe:
        """What a ratios.yaml holds: its ratios, and of its provenance what they were found with.

        Args:
            ratios: with or without the provenance of a study.
            defaults: what the provenance does not say.

        Raises:
            RecordError: the provenance has a value that cannot be used; one line.
        """
        base = _section(ratios.provenance, "base")
        # Files of 0.1 have betas and a component's own weight decay by the names that they were searched by.
        point = {name: base.pop(name) for name in list(base) if name in _BETAS or name.endswith(".weight_decay")}
        if unknown := [
            name for name in base if name not in cls.model_fields or name in ("ratios", "target_lr", *_MADE_OF)
        ]:
            raise RecordError(
                f"provenance.base.{printable(str(unknown[0]), 60)}: not a setting that ratios are found with"
            )
        own = {**defaults.component_weight_decay, **_section(base, "component_weight_decay")}
        target = {"target_lr": lr} if (lr := _section(ratios.provenance, "target").get("lr")) is not None else {}
        knots = {component: ratio.knots for component, ratio in ratios.items()}
        plain = {**defaults.model_dump(), **base, **target, "component_weight_decay": own, "ratios": knots}
        if plain["schedule"] == "constant":
            plain["final_fraction"] = base.get("final_fraction", 1.0)
        try:
            recipe = cls.model_validate(plain)
            return recipe.at(point) if point else recipe
        except ValidationError as error:
            raise RecordError(f"provenance.base.{first_problem(error)}") from None

    def at(self, point: Mapping[str, float]) -> Recipe:
        """This recipe with everything that a point of a search names in the place of what it has.

        A point without ratios leaves those that are there. A batch size is the proxy's own, and no part of a recipe.

        Args:
            point: parameter -> value; names as in `rlrs.search.space`.
        """
        found: dict[str, Any] = {
            name: point[name]
            for name in (
                "lr",
                "final_fraction",
                "warmup_fraction",
                "weight_decay",
                "muon_rate",
                "init_scale",
                *_FACTORS,
            )
            if name in point
        }
        if any(name in point for name in _BETAS):
            found["betas"] = tuple(point.get(name, old) for name, old in zip(_BETAS, self.betas, strict=True))
        own = {n.removesuffix(".weight_decay"): v for n, v in point.items() if n.endswith(".weight_decay")}
        if own:
            found["component_weight_decay"] = {**self.component_weight_decay, **own}
        towers = {n.removesuffix(_OF_TOWER): v for n, v in point.items() if n.endswith(_OF_TOWER)}
        if towers:
            found["tower_decay"] = {**self.tower_decay, **towers}
        if knots := _knots(point):
            found["ratios"] = knots
        return Recipe.model_validate({**self.model_dump(), **found})

    @property
    def digest(self) -> str:
        """Hash of everything but the target's rate, as 8 hex digits: what a transfer is about."""
        idle = [name for name in (*_MADE_OF, "muon_rate") if getattr(self, name) in (None, {})]
        plain = self.model_dump(mode="json", exclude={"target_lr", *idle})
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]

    def on(self, model: nn.Module) -> Recipe:
        """This recipe with its factors made ratios of a model's layers and adapters: each model has its own number.

        Layer decay is of components' ratios: those of layers, experts or tokens of their own stay as they are.

        Args:
            model: on any device; meta will do.

        Raises:
            ValueError: the model has no layers, no adapters, or not such a tower; or both kinds of factors.
        """
        ratios = self.relative_rates()
        finer = {name: ratio for name, ratio in ratios.items() if "/" in name}
        made = Ratios({name: ratio for name, ratio in ratios.items() if name not in finer})
        decays = self.layer_decay is not None or bool(self.tower_decay)
        if decays and self.lora_plus is not None:
            raise ValueError("layer_decay and lora_plus divide the same components, by layer and by LoRA's matrix")
        if decays:
            made = layer_decay(model, self._decay(model), made)
        if self.lora_plus is not None:
            made = lora_plus(model, self.lora_plus, made)
        knots = {component: ratio.knots for component, ratio in {**made, **finer}.items()}
        return self.model_copy(update={"ratios": knots, **dict.fromkeys(_FACTORS), "tower_decay": {}})

    def _decay(self, model: nn.Module) -> float | dict[str, float]:
        """One factor, or one for each tower of a model."""
        if not self.tower_decay:
            return self.layer_decay or 1.0
        towers = {depth.tower for depth in partition(model).depths.values()} if self.layer_decay is not None else set()
        return {**dict.fromkeys(sorted(towers), self.layer_decay or 1.0), **self.tower_decay}

    @property
    def factors(self) -> dict[str, float]:
        """What `on` makes ratios of, by the names that a search has for it."""
        own = {name: value for name in _FACTORS if (value := getattr(self, name)) is not None}
        return own | {f"{tower}{_OF_TOWER}": value for tower, value in self.tower_decay.items()}

    def relative_rates(self) -> Ratios:
        """The ratios as the rest of the library takes them."""
        return Ratios({component: list(knots) for component, knots in self.ratios.items()})

    def run_ratios(self) -> dict[str, list[tuple[float, float]]]:
        """The ratios of a `RunSpec`: a ratio of 1 is the base rate and left out, so that equal runs have equal ids."""
        return {c: list(ratio.knots) for c, ratio in self.relative_rates().items() if ratio != BASE}

    def training(self, settings: TrainingConfig) -> TrainingConfig:
        """A study's training settings with what was found in their place."""
        found: dict[str, Any] = {
            "schedule": self.schedule,
            "warmup_fraction": self.warmup_fraction,
            "weight_decay": self.weight_decay,
            "component_weight_decay": self.component_weight_decay,
            "betas": self.betas,
            **({"muon_rate": self.muon_rate} if self.muon_rate is not None and settings.optimizer == "muon" else {}),
        }
        if self.schedule == "constant":  # its final fraction is a part of the shape
            found["final_fraction"] = 1.0
        return settings.model_copy(update=found)

    def base_schedule(self, steps: int) -> BaseSchedule:
        """The base schedule of a run of so many steps."""
        return BaseSchedule(
            total_steps=steps,
            warmup_steps=warmup_steps(self.warmup_fraction, steps),
            final_fraction=None if self.schedule == "constant" else self.final_fraction,
            shape=self.schedule,
        )

    def base_settings(self) -> dict[str, Any]:
        """All but ratios, what they are made of, and the target's rate, as the provenance of a ratios.yaml has it."""
        plain = self.model_dump(mode="json", exclude={"ratios", "target_lr", *_MADE_OF}, exclude_none=True)
        return {name: value for name, value in plain.items() if value != {}}

    def optimizer_words(self) -> tuple[str, ...]:
        """What an optimizer and a model have to have for these rates, each in words."""
        own = f"; {_words(self.component_weight_decay)}" if self.component_weight_decay else ""
        words = [f"weight decay {self.weight_decay:g}{own}", f"Adam's betas {_words(self.betas)}"]
        if self.muon_rate is not None:
            words.append(f"Muon's base rate {self.muon_rate:g} times AdamW's")
        if self.init_scale is not None:
            words.append(f"initialisation scale {self.init_scale:g}: a standard deviation of sqrt(scale / fan_in)")
        return tuple(words)

    def changes(self, settings: TrainingConfig, model: object = None) -> list[str]:
        """What a run with this recipe has in the place of a study's own settings, each in words.

        Args:
            settings: of the study.
            model: its settings, for what was found about initialisation.
        """
        found = self.training(settings)
        names = ("schedule", "warmup_fraction", "weight_decay", "component_weight_decay", "betas", "muon_rate")
        pairs = [(name.replace("_", " "), getattr(found, name), getattr(settings, name)) for name in names]
        said = [f"{name} {_words(new)} (the study: {_words(old)})" for name, new, old in pairs if new != old]
        if model is not None and self.init_scale is not None:
            own = getattr(model, "init_scale", None)
            if own is None:
                said.append(f"init scale {self.init_scale:g} is not used: the model initialises itself")
            elif own != self.init_scale:
                said.append(f"init scale {self.init_scale:g} (the study: {own:g})")
        return said


def _section(plain: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A mapping within provenance, which is plain data that anybody may have written."""
    part = plain.get(name) or {}
    if not isinstance(part, Mapping):
        raise RecordError(f"provenance.{name}: should be a mapping, not {shown(part)}")
    return {str(key): value for key, value in part.items()}


def _knots(point: Mapping[str, float]) -> dict[str, tuple[tuple[float, float], ...]]:
    """The ratios in a point: `COMPONENT.start`, `COMPONENT.25%`, `COMPONENT.end`."""
    knots: dict[str, list[tuple[float, float]]] = {}
    for name, value in point.items():
        component, _, part = name.rpartition(".")
        knot = _KNOT.fullmatch(part)
        if component and (part in ("start", "end") or knot):
            progress = float(knot[1]) / 100 if knot else float(part == "end")
            knots.setdefault(component, []).append((progress, value))
    return {component: tuple(sorted(pairs)) for component, pairs in knots.items()}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{component} {decay:g}" for component, decay in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(f"{part:g}" for part in value)
    return value if isinstance(value, str) else f"{value:g}"
