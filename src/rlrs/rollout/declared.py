"""What a rollout declares before it begins: stages, criteria, guardrails, ways back, and who may sign."""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from rlrs.comparison.sequential import LEAST_SEEDS, TAU
from rlrs.messages import printable, should_be, shown
from rlrs.settings import Settings
from rlrs.settings.base import number, whole
from rlrs.yaml_files import YAMLError, load_yaml

DIVERGED = "diverged"
"""The guardrail that every stage has: runs of the candidate that ended without a loss, as a share."""
ALARMS = "alarms"
"""The guardrail that is counted by the monitor where run folders are read."""

Finite = Annotated[float, BeforeValidator(number)]
Pairs = Annotated[int, BeforeValidator(whole), Field(ge=LEAST_SEEDS, le=10_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w .@+-]{0,63}$")]


class RolloutError(ValueError):
    """A rollout that cannot be declared, read or carried on; one line: what, where, what would be right."""


class GuardrailConfig(Settings):
    """A bound that the candidate must keep for a stage to pass.

    >>> GuardrailConfig(at_least=0.95, of="ratio").words("tokens_per_second")
    'tokens_per_second, candidate over baseline, at least 0.95'
    """

    at_most: Finite | None = None
    """Upper bound; this or `at_least`."""
    at_least: Finite | None = None
    """Lower bound."""
    of: Literal["run", "difference", "ratio"] = "run"
    """What is bounded: every run of the candidate; the mean of candidate minus baseline; or the geometric mean of
    candidate over baseline. The last two are shown by the same test as the gain."""

    @model_validator(mode="after")
    def _one_bound(self) -> GuardrailConfig:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("should have one of at_most and at_least")
        if self.of == "ratio" and self.bound <= 0:
            raise ValueError(f"a bound of a ratio should be above 0, not {self.bound!r}")
        return self

    @property
    def bound(self) -> float:
        """The one that is there."""
        found = self.at_most if self.at_most is not None else self.at_least
        assert found is not None
        return found

    def words(self, metric: str) -> str:
        """The bound in words."""
        what = {"run": "", "difference": ", candidate minus baseline,", "ratio": ", candidate over baseline,"}[self.of]
        return f"{metric}{what} at {'most' if self.at_most is not None else 'least'} {self.bound:g}"


class StageConfig(Settings):
    """One stage: what it takes to pass, and the way back."""

    metric: Name
    """What the gain is in: a column of the results, such as `valid_loss`."""
    better: Literal["lower", "higher"] = "lower"
    """Which way of the metric is a gain."""
    min_gain: Finite = 0.0
    """The mean gain must be shown to be above it, in the metric's unit. Below 0: no worse than so much."""
    paired: bool = True
    """Whether runs of both arms with one name (a seed, a day) are compared; else in the order in which they came."""
    min_pairs: Pairs = 4
    """No criterion is judged before so many."""
    max_pairs: Pairs
    """A stage that has not passed by so many fails."""
    tau: Annotated[float, BeforeValidator(number), Field(gt=0, le=100)] = TAU
    """Gain, in units of the spread of a pair's differences, that the test sees soonest. Any value keeps the 5 %."""
    guardrails: dict[Name, GuardrailConfig] = Field(default_factory=dict)
    """Metric -> bound. `diverged: {at_most: 0}` is there unless it is declared otherwise."""
    back_out: Annotated[str, Field(max_length=10_000)]
    """What to do if the stage fails: who puts back what, and how."""

    @field_validator("back_out")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if len(text.split()) < 3:
            raise ValueError(f"should say in a sentence what to do if the stage fails, not {shown(text)}")
        return text.strip()

    @model_validator(mode="after")
    def _sound(self) -> StageConfig:
        if self.min_pairs > self.max_pairs:
            raise ValueError(f"min_pairs is {self.min_pairs}, above max_pairs, {self.max_pairs}")
        if self.metric in (DIVERGED, ALARMS):
            raise ValueError(f"metric should be a measurement; {self.metric} is a guardrail")
        diverged = self.guardrails.get(DIVERGED)
        if diverged and (diverged.at_most is None or diverged.of != "run" or not 0 <= diverged.at_most <= 1):
            raise ValueError("guardrails.diverged should be {at_most: a share from 0 to 1}")
        return self

    def bounds(self) -> dict[str, GuardrailConfig]:
        """All guardrails, with the one that every stage has."""
        return {DIVERGED: GuardrailConfig(at_most=0), **self.guardrails}

    def metrics(self) -> list[str]:
        """What is needed of every run that ended well."""
        return list(dict.fromkeys([self.metric, *(name for name in self.guardrails if name != DIVERGED)]))


class RolloutConfig(Settings):
    """A rollout.yaml."""

    name: Name
    baseline: Name
    """The arm that is in use."""
    candidate: Name
    """The arm that would take its place."""
    signers: Annotated[dict[Name, str], Field(min_length=1)]
    """Who may sign a stage off -> file of the public key (Ed25519), beside the rollout.yaml, or its base64."""
    thresholds: str | None = None
    """A monitor.yaml for the guardrail `alarms`; the monitor's defaults if not given."""
    stages: Annotated[dict[Name, StageConfig], Field(min_length=1, max_length=20)]
    """In their order, such as sandbox, middle, production."""

    @model_validator(mode="after")
    def _two_arms(self) -> RolloutConfig:
        if self.baseline == self.candidate:
            raise ValueError(f"baseline and candidate are both {self.candidate!r}")
        return self

    def to_plain(self) -> dict[str, Any]:
        """What the trail keeps: all settings, with the order of the stages, which JSON objects do not have."""
        return {**self.model_dump(mode="json"), "order": list(self.stages)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RolloutConfig:
        """Settings from what `to_plain` gave."""
        rest = {key: value for key, value in plain.items() if key != "order"}
        return cls.model_validate({**rest, "stages": {name: plain["stages"][name] for name in plain["order"]}})


def load_rollout(path: str | Path) -> RolloutConfig:
    """Read and validate a rollout.yaml, with the public keys that it names.

    Raises:
        RolloutError: it cannot be read, or is no valid rollout.
        AuditError, ImportError: a key is none, or `cryptography` is missing.

    >>> load_rollout("none.yaml")
    Traceback (most recent call last):
    rlrs.rollout.declared.RolloutError: none.yaml: cannot be read: No such file or directory
    """
    path, where = Path(path), printable(str(path))
    try:
        raw = load_yaml(path)
    except YAMLError as error:
        raise RolloutError(str(error)) from None
    return rollout_from(raw, where, path.parent)


def rollout_from(raw: Any, where: str, folder: Path) -> RolloutConfig:
    """Validate plain data as a rollout.

    Args:
        raw: what a rollout.yaml holds.
        where: it comes from, for messages.
        folder: of the files that it names.

    Raises:
        RolloutError: it is no valid rollout.
    """
    if not isinstance(raw, dict):
        raise RolloutError(f"{where}: should have the keys of a rollout: {', '.join(RolloutConfig.model_fields)}")
    try:
        config = RolloutConfig.model_validate(raw)
    except ValidationError as error:
        raise RolloutError(f"{where}: {_first_problem(error)}") from None
    signers = {name: _key(text, f"{where}: signers.{name}", folder) for name, text in config.signers.items()}
    return config.model_copy(update={"signers": signers})


def changed(before: RolloutConfig, now: RolloutConfig, stages: list[str]) -> str | None:
    """The first setting that is not what it was, in words: of the whole, and of the given stages.

    >>> stage = {"metric": "loss", "max_pairs": 9, "back_out": "Ann loads the old rates."}
    >>> plain = {"name": "r", "baseline": "a", "candidate": "b", "signers": {"ann": "k"}, "stages": {"sandbox": stage}}
    >>> other = {**plain, "stages": {"sandbox": {**stage, "max_pairs": 90}}}
    >>> changed(RolloutConfig.model_validate(plain), RolloutConfig.model_validate(other), ["sandbox"])
    'stages.sandbox.max_pairs was 9 and is 90'
    """
    old, new = before.to_plain(), now.to_plain()
    pairs: list[tuple[str, Any, Any]] = [
        (key, old[key], new[key]) for key in RolloutConfig.model_fields if key != "stages"
    ]
    if (first := old["order"][: len(stages)]) != (second := new["order"][: len(stages)]):
        pairs.append(("the order of stages", first, second))
    pairs += [(f"stages.{name}", old["stages"].get(name), new["stages"].get(name)) for name in stages]
    return next(filter(None, (_first_change(*pair) for pair in pairs)), None)


def _first_change(where: str, before: Any, now: Any) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        found = (_first_change(f"{where}.{key}", before.get(key), now.get(key)) for key in keys)
        return next(filter(None, found), None)
    return None if before == now else f"{where} was {shown(before)} and is {shown(now)}"


def _key(text: str, where: str, folder: Path) -> str:
    """A public key as base64: the text itself, or that of the file it names."""
    from rlrs.audit.anchors import public_key

    try:
        if len(base64.b64decode(text, validate=True)) == 32:
            return text
    except (binascii.Error, ValueError):
        pass
    try:
        return public_key(folder / text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RolloutError(f"{where}: no public key: {printable(str(reason), 200)} ({shown(text)})") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    where, value = printable(".".join(location), 100), problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {shown(where)}; {_hint(location)}"
        case "missing":
            return f"{where} is missing" + (": what to do if the stage fails" if location[-1] == "back_out" else "")
        case "string_pattern_mismatch":
            return f"{where}: a name should be letters, digits, spaces and . @ + - _, not {shown(value)}"
    if (asked := should_be(problem)) is not None:
        return f"{where}: {asked}" if where else asked
    message = problem["msg"].removeprefix("Value error, ")
    told = "" if isinstance(value, dict) or shown(value) in message else f" (got {shown(value)})"
    text = f"{message[0].lower()}{message[1:]}{told}"
    return f"{where}: {text}" if where else text


def _hint(location: list[str]) -> str:
    depth = {1: RolloutConfig, 3: StageConfig, 5: GuardrailConfig}.get(len(location), RolloutConfig)
    known = list(depth.model_fields)
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
