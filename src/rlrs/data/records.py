"""JSON records for supervised fine-tuning: read whole, split by their hash, and kept beside the study.

A record is an object that TRL's `SFTTrainer` knows: a text, a prompt with its completion, or messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlrs.data.reading import guess_format, read_objects
from rlrs.data.sources import HUB, FilePart, find_files
from rlrs.data.unpacking import DamagedError
from rlrs.files import write_atomic
from rlrs.settings import ConfigError, DataConfig

_NAMES, _FACTS = ("train.jsonl", "valid.jsonl"), "records.json"


def prepare_records(config: DataConfig, folder: Path) -> dict[str, Any]:
    """Read the records of a study and write them as `train.jsonl` and `valid.jsonl`; what is known of them.

    Those with the lowest hashes, a share of `valid_fraction`, are for validation: one more or less moves no other.
    All are held in memory: fine-tuning sets are small.

    Args:
        config: settings; `source` names `.jsonl` or `.json` files.
        folder: of the study's data; made if missing.

    Raises:
        ConfigError: no such file, a file or a record that cannot be used, or too few records for both sides.
    """
    if config.source == "stdlib" or any(str(source).startswith(HUB) for source in [config.source]):
        raise ConfigError(
            f"data.source={config.source!r}: SFTTrainer reads records: name files:GLOB of .jsonl or .json"
        )
    lines: dict[bytes, str] = {}
    files = find_files(config)
    for part in files:
        for line in _records(part, config):
            lines[hashlib.sha256(line.encode()).digest()] = line  # the same record twice is one
    count = round(config.valid_fraction * len(lines)) or 1
    if count >= len(lines):
        raise ConfigError(f"data.source: {len(lines)} records are too few to train on some and validate on others")
    chosen = set(sorted(lines)[:count])
    train = [line for key, line in lines.items() if key not in chosen]
    valid = [lines[key] for key in sorted(chosen)]
    folder.mkdir(parents=True, exist_ok=True)
    texts = ["".join(f"{line}\n" for line in side) for side in (train, valid)]
    for name, text in zip(_NAMES, texts, strict=True):
        if not (folder / name).exists() or (folder / name).read_text() != text:
            write_atomic(folder / name, text)
    facts = {"text_field": config.text_field, "sequence_length": config.sequence_length}
    write_atomic(folder / _FACTS, json.dumps(facts) + "\n")
    source = config.source if isinstance(config.source, str) else ", ".join(config.source)
    digest = hashlib.sha256("\0".join([*texts, json.dumps(facts)]).encode()).hexdigest()[:12]
    return {"source": source, "files": len(files), "documents": len(lines), "hash": digest}


def load_records(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The records to train on, those to validate on, and `text_field` and `sequence_length` of the study."""
    train, valid = ([json.loads(line) for line in (folder / name).read_text().splitlines()] for name in _NAMES)
    return train, valid, json.loads((folder / _FACTS).read_text())


def _records(part: FilePart, config: DataConfig) -> Iterator[str]:
    """The records of a file, each as one line with its keys in order."""
    kind = part.format or guess_format(part.path)
    if kind not in ("jsonl", "json"):
        raise ConfigError(f"{part.where}: is {kind}; SFTTrainer reads records from .jsonl or .json")
    skip = config.damaged == "skip"

    def bad(where: str, why: str) -> None:
        if not skip:
            raise ConfigError(f"{part.where}: {where}: {why}; data.damaged: skip leaves it out")

    try:
        for where, record in read_objects(part.path, bad):
            if why := _why_none(record, config.text_field):
                bad(where, why)
            else:
                yield json.dumps(record, sort_keys=True)
    except DamagedError as error:
        if not skip:
            raise ConfigError(f"{part.where}: {error}; data.damaged: skip leaves out the rest") from None


def _why_none(record: Any, text_field: str) -> str | None:
    """Why an object is no record to fine-tune on; None if it is one."""
    if not isinstance(record, dict):
        return "no object"
    messages = record.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages):
        return None
    if record.get("prompt") and record.get("completion"):
        return None
    if isinstance(record.get(text_field), str) and record[text_field]:
        return None
    has = ", ".join(map(repr, list(record)[:8])) or "none"
    return f"neither messages, nor prompt and completion, nor a text in {text_field!r} (data.text_field); it has {has}"
