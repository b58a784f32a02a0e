"""Rules of a components.yaml: which tensors share a rate, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlrs.components import PartitionError, Rule
from rlrs.yaml_files import YAMLError, load_yaml


def load_rules(path: str | Path) -> list[Rule]:
    """The rules of a components.yaml, as `rlrs discover components` writes it or a user does.

    >>> import tempfile
    >>> text = "format: 1\\ncomponents:\\n- {component: late, rules: ['^blocks[.]1[.]']}"
    >>> file = Path(tempfile.mkdtemp()) / "components.yaml"
    >>> _ = file.write_text(text)
    >>> load_rules(file)[0].component
    'late'

    Args:
        path: of the file: `format: 1`, and under `components` a list of `component` and `rules`, regular expressions
            that are searched in a parameter's canonical name. The first that matches wins.

    Raises:
        PartitionError: it cannot be used; one line that names the file and the place.
        OSError: it cannot be read.
    """
    try:
        plain = load_yaml(path)
    except YAMLError as error:
        raise PartitionError(str(error)) from None
    if not isinstance(plain, dict) or plain.get("format") != 1 or not isinstance(plain.get("components"), list):
        raise PartitionError(f"{path}: should have format: 1 and a list of components, each with its rules")
    return [
        rule for place, one in enumerate(plain["components"]) for rule in _rules(one, f"{path}: components[{place}]")
    ]


def _rules(plain: Any, where: str) -> list[Rule]:
    if not isinstance(plain, dict) or not isinstance(plain.get("component"), str):
        raise PartitionError(f"{where}: should have a component, its name")
    patterns = plain.get("rules")
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise PartitionError(f"{where}: rules should be a list of regular expressions")
    try:
        return [Rule(plain["component"], pattern) for pattern in patterns]
    except PartitionError as error:
        raise PartitionError(f"{where}: {error}") from None
