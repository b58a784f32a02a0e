"""A study.yaml read, with one line for what is wrong in it; the hash of settings, and how two studies differ."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rlrs.messages import printable, should_be, shown
from rlrs.settings.base import ConfigError, Settings
from rlrs.settings.model import TAGGED
from rlrs.settings.study import StudyConfig
from rlrs.yaml_files import YAMLError, load_yaml

S = typing.TypeVar("S", bound=Settings)

CHANGES_NO_RESULT: dict[str, Any] = {
    "processes": True,
    "engine": True,
    "storage": True,
    "guard": True,
    "machine": True,
    "trainer": frozenset({"verify"}),
    "data": frozenset({"folder"}),
    "training": frozenset({"distributed", "keep_checkpoints", "tensorboard"}),
}
"""Settings with which a study, or a run of it, may go on though it began with others; in pydantic's `exclude` form."""

MAY_GROW = frozenset(
    {
        *("search.trials", "search.max_steps", "search.max_flops", "search.max_hours", "transfer.trials"),
        *("comparison.arms", "comparison.seeds", "comparison.horizons", "comparison.stop", "comparison.max_seeds"),
    }
)
"""Settings of which a study that has begun, or ended, may be given more: a greater number, none at all where a limit
was, further entries of a list. What is done already stays as it is."""
_MAY_CHANGE = frozenset({"ladder", "transfer.mode"})
"""Settings that a study which has begun may change: a rung is a search of its own, and a run of the target is known by
what it trains."""
_NONE_YET: dict[str, Any] = {"comparison.stop": "fixed", "comparison.max_seeds": None}
"""Of these, the values that say that there is nothing yet, so that any other is more."""

_ELSEWHERE = {
    "learning_rate": "search.lr",
    "base_lr": "search.lr",
    "max_lr": "search.lr",
    "peak_lr": "search.lr",
    "min_lr": "training.final_fraction",
    "warmup": "training.warmup_fraction",
    "warmup_steps": "training.warmup_fraction",
    "max_seq_len": "data.sequence_length",
    "seq_len": "data.sequence_length",
    "context_length": "data.sequence_length",
    "num_layers": "model.n_layers",
    "num_heads": "model.n_heads",
    "hidden_size": "model.d_model",
    "ratios": "search.start",
    "budget": "search.trials",
}
"""Names that other trainers have for a setting; those of our own that stand elsewhere are found by themselves."""


def load_study(path: str | Path) -> StudyConfig:
    """Read and validate a study.yaml.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or says something that is not a valid study.
    """
    try:
        raw = load_yaml(path)
    except YAMLError as error:
        raise ConfigError(str(error)) from None
    return study_from(raw, printable(str(path)))


def study_from(raw: Any, where: str) -> StudyConfig:
    """Validate plain data as a study.

    Args:
        raw: what a study.yaml holds.
        where: it comes from, for messages.

    Raises:
        ConfigError: it is no valid study.
    """
    if not isinstance(raw, dict):
        problem = "is empty" if raw is None else f"is {'a list' if isinstance(raw, list) else shown(raw)}"
        raise ConfigError(f"{where}: {problem}; it should have the keys of a study: name, proxy, target, ...")
    try:
        return StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from None


def settings_from(kind: type[S], where: str, **values: Any) -> S:
    """A part of a study's settings from values, for callers in Python.

    Args:
        kind: of the settings.
        where: the values come from, for messages.
        values: by their names.

    Raises:
        ConfigError: a value that cannot be used; one line.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from None


def fingerprint(settings: Settings, *, without: Mapping[str, Any] | None = None) -> str:
    """Hash of settings as 12 hex digits; equal settings have equal hashes whatever their YAML looked like."""
    text = json.dumps(changing(settings, without or {}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changing(settings: Settings, without: Mapping[str, Any] = CHANGES_NO_RESULT) -> dict[str, Any]:
    """The settings that decide results, as JSON would hold them; of a folder with weights, what it holds."""
    plain = kept(settings, without)
    for scale in (plain.get("proxy"), plain.get("target")):
        if isinstance(scale, dict) and "model" in scale:
            by_content(scale["model"])
    return plain


def kept(settings: Settings, without: Mapping[str, Any] = CHANGES_NO_RESULT) -> dict[str, Any]:
    """The settings that decide results, as the study.yaml of a run directory has them."""
    exclude: Any = {key: what if what is True else set(what) for key, what in without.items()}
    plain = settings.model_dump(mode="json", exclude=exclude)
    for name in ("trainer", "ladder", "guard", "machine"):
        if name in plain and plain[name] is None:
            del plain[name]
    if plain.get("search", {}).get("prior", ...) is None:
        del plain["search"]["prior"]
    if "trainer" in plain:
        if plain["trainer"]["transformers"] is None:
            del plain["trainer"]["transformers"]
            plain.pop("data", None)  # its own trainer has data of its own
        for name in ("width", "depth"):
            if plain["trainer"][name] is None:
                del plain["trainer"][name]
    if "data" in plain and plain["data"].get("general", ...) is None:
        del plain["data"]["general"]
    if plain.get("training", {}).get("optimizer", "muon") != "muon":
        del plain["training"]["muon_rate"]
    if plain.get("search", {}).get("stability", ...) is None:
        del plain["search"]["stability"]
    if plain.get("transfer", {}).get("mode") == "unchanged":
        del plain["transfer"]["mode"]
    for scale in (plain.get("proxy"), plain.get("target")):
        for name in ("model", "batch_size", "set", "tokens"):
            if isinstance(scale, dict) and scale.get(name, ...) is None:
                del scale[name]
    return plain


def by_content(model: dict[str, Any]) -> None:
    """Leave out where a folder is whose weights are loaded, as what it holds is there; and adapters that are not."""
    if model.get("content"):
        del model["hub"]
    if model.get("lora", ...) is None:
        del model["lora"]


def difference(theirs: Mapping[str, Any], mine: Mapping[str, Any], at: str = "") -> str | None:
    """The first setting for which two studies are not one and the same, in words; None if one goes on with the other.

    Settings of `MAY_GROW` may be more in `mine` than in `theirs`.

    >>> difference({"search": {"trials": 4, "lr": 0.1}}, {"search": {"trials": 8, "lr": 0.1}})
    >>> difference({"search": {"trials": 4}}, {"search": {"trials": 2}})
    'search.trials is 4 there and 2 here, and may only grow'

    Args:
        theirs: settings as `changing` gives them, of the study that has begun.
        mine: the same of the one that would go on.
        at: where these stand in a study, if they are a part of one.
    """
    for key in dict.fromkeys([*mine, *theirs]):
        where = f"{at}.{key}" if at else str(key)
        before, now = theirs.get(key), mine.get(key)
        if where in _MAY_CHANGE:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            found = difference(before, now, where)
        elif before == now or (where in MAY_GROW and _grown(where, before, now)):
            continue
        else:
            found = _differing(where, before, now)
        if found:
            return found
    return None


def _grown(where: str, before: Any, now: Any) -> bool:
    """Whether a budget or a list has more than it had; None is no limit."""
    if where in _NONE_YET and (before == _NONE_YET[where] or now == _NONE_YET[where]):
        return before == _NONE_YET[where]
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        return all(entry in now for entry in before)
    if now is None:
        return True
    return isinstance(before, int | float) and isinstance(now, int | float) and now >= before


_BRANCHES = frozenset({*TAGGED, "str", "constrained-str", "tuple[str, ...]", "[key]"})
"""What pydantic adds to a place where a setting may be of several kinds."""


def _differing(where: str, before: Any, now: Any) -> str:
    name = printable(where, 100)
    if where in MAY_GROW and before is None and where not in _NONE_YET:
        return f"{name} is no limit there and {shown(now)} here, and a limit may grow or go, not come"
    grow = ", and may only grow" if where in MAY_GROW else ""
    return f"{name} is {shown(before)} there and {shown(now)} here{grow}"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = printable(".".join(str(part) for part in problem["loc"] if part not in _BRANCHES), 100)
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {shown(where)}; {_hint(problem['loc'])}"
        case "missing":
            return f"{where} is missing"
        case "invalid_key":
            return f"{where}: a key should be text, not {shown(problem['loc'][-1])}; put it in quotes"
        case "string_type" | "string_sub_type" if isinstance(value, int | float):
            return f"{where}: should be text, not {shown(value)}; put it in quotes if it is meant as it stands"
    if (asked := should_be(problem)) is not None:
        return f"{where}: {asked}" if where else asked
    if problem["type"] in ("too_short", "too_long") and isinstance(value, list | tuple | dict):
        least, most = (problem.get("ctx", {}).get(name) for name in ("min_length", "max_length"))
        asked = f"{least} or more" if most is None else f"{most} at most"
        return f"{where}: should have {asked}, not {len(value)} (got {shown(value)})"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    told = "" if isinstance(value, dict) or shown(value) in message else f" (got {shown(value)})"
    return f"{where}: {message[0].lower()}{message[1:]}{told}" if where else message


def _hint(location: tuple[int | str, ...]) -> str:
    """What an unknown key may have been meant as: a setting of that name elsewhere, or one here of a like name."""
    key, known = str(location[-1]), _keys_at(location[:-1])
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        here = ".".join(str(part) for part in location if part not in TAGGED).split(".")[-2:]
        # Of a model of the other kind, the same place is no help.
        elsewhere = [p for p in _places(StudyConfig) if p.rpartition(".")[2] == key and p.split(".")[-2:] != here]
        if elsewhere := elsewhere or [name for name in [_ELSEWHERE.get(key)] if name]:
            return f"it is {' or '.join(elsewhere[:3])}"
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"


def _places(cls: type[BaseModel], at: str = "") -> Iterator[str]:
    """All settings below a class of settings, by their places."""
    for name, field in cls.model_fields.items():
        yield f"{at}{name}"
        # What `search.prior` is looked up as is no place where a setting is written.
        for option in _classes(field.annotation) if name != "prior" else ():
            yield from _places(option, f"{at}{name}.")


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """Classes of settings that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [found for option in typing.get_args(annotation) for found in _classes(option)]
    return []


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Names of the settings that may stand at a place in a study."""
    cls: type[BaseModel] = StudyConfig
    for part in location:
        # A choice of models is settled by the tag that follows.
        cls = TAGGED[part] if part in TAGGED else next(iter(_classes(cls.model_fields[str(part)].annotation)), cls)
    return list(cls.model_fields)
