"""Weights in a folder of transformers: seen, said, loaded, hashed."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from rlrs.extras import install
from rlrs.messages import printable
from rlrs.settings import ConfigError, HubConfig

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PADDING = 1024
"""Entries that a table may have beyond the tokenizer's: tables are padded to round sizes. Chosen here, not studied."""


def check_weights(config: HubConfig) -> None:
    """See that it was said of a folder what to do with weights, and that there are some to load.

    Raises:
        ConfigError: `hub` is a folder and `weights` is not set; or there are none to load.
    """
    if config.config is not None:  # a folder was named, and has been read
        return
    files = weight_files(config.hub)
    if config.weights is None and Path(config.hub).is_dir():
        if not files:
            raise ConfigError(
                f"hub={config.hub!r} is a folder without weights: say weights: random, to train its architecture from "
                "scratch"
            )
        raise ConfigError(
            f"hub={config.hub!r} holds weights ({files[0].name}): say weights: load, to train on from them, or "
            "weights: random, to train the architecture from scratch"
        )
    if config.weights == "load" and not files:
        raise ConfigError(
            f"hub={config.hub!r}: weights: load needs a local folder with a model.safetensors (or shards of one), "
            f"looked for from {Path.cwd()}, or a name on the hub (ORGANISATION/NAME)"
        )


def is_hub_name(text: str) -> bool:
    """Whether a text is a name on the hub, ORGANISATION/NAME, and nothing of that name is here."""
    return _HUB_NAME.fullmatch(text) is not None and not Path(text).exists()


@lru_cache(maxsize=64)
def fetched(name: str) -> Path:
    """The folder of a model of the hub: config, safetensors and tokenizer, fetched where they are not here yet.

    They are kept where `huggingface_hub` keeps them (HF_HOME); with HF_HUB_OFFLINE=1 nothing is asked for.

    Args:
        name: ORGANISATION/NAME.

    Raises:
        ConfigError: there is no such model, or the hub cannot be reached; one line.
        ImportError: `huggingface_hub`, which comes with transformers, is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(f"{name}: a model of the hub needs: {install('transformers')}") from None
    wanted = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of many kinds: no network, no such name, no leave
        line = printable(" ".join(str(error).split()), 200) or type(error).__name__
        raise ConfigError(f"{name!r}: no folder of that name here, and not fetched from the hub: {line}") from None


def weight_files(folder: str | Path) -> list[Path]:
    """Files of weights that transformers loads from a folder, in order of name; none of what is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def load_weights(config: HubConfig, settings: Any, vocab_size: int) -> Any:
    """The model of a folder in float32, tied where its config ties it; every weight of it and no other.

    Args:
        config: with `weights: load`.
        settings: transformers' own, of the folder and the overrides.
        vocab_size: entries of the data's vocabulary.

    Raises:
        ConfigError: weights and model do not fit each other, or the vocabulary is another.
    """
    import transformers

    check_vocabulary(config, settings.get_text_config().vocab_size, vocab_size)
    try:
        with _without_bars(transformers):
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                config.hub, config=settings, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # each architecture checks in its own way
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"hub={config.hub!r}: its weights cannot be loaded: {line}") from None
    model, found = loaded
    for kind in ("missing", "mismatched", "unexpected"):
        if names := sorted(map(str, found[f"{kind}_keys"])):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise ConfigError(
                f"hub={config.hub!r}: {kind} in its weights: {names[0]}{more}; overrides should leave sizes as they are"
            )
    return model.train()


@contextlib.contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Load without a progress bar: every run of a study loads its weights."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_vocabulary(config: HubConfig, rows: int, vocab_size: int) -> None:
    """See that weights are for the data's vocabulary.

    Raises:
        ConfigError: their table has fewer rows than the tokenizer has entries, or too many more.
    """
    if not vocab_size <= rows <= vocab_size + PADDING:
        raise ConfigError(
            f"hub={config.hub!r}: its weights are for a vocabulary of {rows} entries, and the data's tokenizer has "
            f"{vocab_size}; name the tokenizer that they were trained with as data.tokenizer, often the same folder"
        )


def content_hash(folder: str | Path, *, weights: bool) -> str:
    """What a folder of transformers holds, wherever it is: config.json and, if they are loaded, its weights.

    Files that have not changed since, by size and time, are not read again in this process.

    Args:
        folder: with a config.json.
        weights: whether weights count.

    Returns:
        16 hex digits.

    Raises:
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    files = [folder / "config.json", *(weight_files(folder) if weights else [])]
    stamped = [(path, (status := path.stat()).st_size, status.st_mtime_ns) for path in files]
    parts = [f"{path.name} {_digest(path, size, time)}" for path, size, time in stamped]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=1024)
def _digest(path: Path, size: int, time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
