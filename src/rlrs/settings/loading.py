"""A study.yaml read, with one line for what is wrong in it; and the hash of settings."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rlrs.settings.base import ConfigError, Settings
from rlrs.settings.model import TAGGED
from rlrs.settings.study import StudyConfig

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
    where = ".".join(str(part) for part in problem["loc"] if part not in TAGGED)
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
    return f"{where}: {message[0].lower()}{message[1:]}{shown}" if where else message


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Names of the settings that may stand at a place in a study."""
    cls: type[BaseModel] = StudyConfig
    for part in location:
        if part in TAGGED:
            cls = TAGGED[part]
            continue
        annotation = cls.model_fields[str(part)].annotation
        options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        # A choice of models is settled by the tag that follows.
        cls = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), cls)
    return list(cls.model_fields)
