"""`hf:`: data sets of the library `datasets`, by name or from a local folder, streamed."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrs.data.reading import BadRecord, why_no_text
from rlrs.data.sources import HUB
from rlrs.data.unpacking import BYTE_ORDER_MARK, DamagedError, Hash, first_line
from rlrs.extras import install
from rlrs.settings import ConfigError, DataConfig

ROWS = 256
"""Rows read at once."""


@dataclass(frozen=True)
class HubPart:
    """A shard of a data set; for most of them one file.

    Args:
        name: split and number of the shard.
        where: its file, as far as that is known.
        stream: the shard, a `datasets.IterableDataset`.
        text_field: column of the text.
        valid: whether it belongs to the split for validation; None if its documents are still to be split.
    """

    name: str
    where: str
    stream: Any
    text_field: str
    valid: bool | None
    one_document: bool = False

    def stamp(self) -> tuple[int, int] | None:
        """None: the data set as a whole has a fingerprint."""
        return None

    def texts(self, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[str]:
        """The documents of the shard; one without text (null) is an empty text.

        Raises:
            DamagedError: a file of it is damaged, or a row's text is not text.
            ConnectionError: the hub cannot be reached.
        """
        import datasets.exceptions

        try:
            for rows in self.stream.iter(batch_size=ROWS):
                if self.text_field not in rows:
                    raise _no_field(self.text_field, list(rows))
                for text in rows[self.text_field]:
                    if text is not None and not isinstance(text, str):
                        raise DamagedError(f"the column {self.text_field!r} holds {type(text).__name__}, not text")
                    text = (text or "").replace(BYTE_ORDER_MARK, "")
                    if (why := why_no_text(text)) is not None:
                        raise DamagedError(why)
                    if digest is not None:
                        digest.update(text.encode() + b"\xff")
                    yield text
        except (ConfigError, DamagedError, GeneratorExit):
            raise
        except (ValueError, EOFError, zlib.error, datasets.exceptions.DatasetsError) as error:
            raise DamagedError(first_line(error)) from None
        except OSError as error:
            if error.errno is not None:
                raise
            if type(error) is not ConnectionError and isinstance(error, _broken_file_errors()):
                raise DamagedError(first_line(error)) from None
            raise ConnectionError(f"reading {self.where}: {first_line(error)}") from None
        except Exception as error:  # of whichever client library reads from afar
            raise ConnectionError(f"reading {self.where}: {first_line(error)}") from None


def is_local(config: DataConfig) -> bool:
    """Whether an `hf:` source is a folder of this machine."""
    return _path(config).is_dir()


def open_hub(config: DataConfig) -> tuple[list[HubPart], str]:
    """Shards of a data set, and a fingerprint of its version.

    Raises:
        ConfigError: no such data set, configuration, split or column; or it can neither be reached nor is it cached.
        ImportError: the extra `datasets` is not installed.
    """
    try:
        import datasets
        import datasets.exceptions
    except ImportError:
        raise ImportError(f"data.source={config.source!r} needs datasets: {install('datasets')}") from None
    path = _path(config)
    shown = f"data.source={config.source!r}"
    named = str(config.source).removeprefix(HUB)
    if not path.is_dir() and (named.startswith((".", "/", "~")) or named.count("/") > 1):
        raise ConfigError(f"{shown}: no such folder, looked for from {Path.cwd()}")
    try:
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            (splits, version), files = _saved(path, config), {}
        else:
            splits, files, version = _builder(str(path), config)
    except ConfigError:
        raise
    except (ConnectionError, FileNotFoundError) as error:
        raise ConfigError(
            f"{shown}: {first_line(error)}; it should be a local folder, or a data set on the hub or in the cache"
        ) from None
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(f"{shown}: {first_line(error)}") from None
    roles = [(config.split, None if config.valid_split is None else False)]
    if config.valid_split is not None:
        roles.append((config.valid_split, True))
    parts = []
    for split, valid in roles:
        if split not in splits:
            key = "valid_split" if valid else "split"
            raise ConfigError(f"data.{key}={split!r} is no split of {config.source!r}; it has {', '.join(splits)}")
        stream = splits[split]()
        if stream.features is not None:
            if config.text_field not in stream.features:
                raise _no_field(config.text_field, list(stream.features))
            stream = stream.select_columns([config.text_field])
        count = stream.num_shards
        names = [f"{split}/{number}" for number in range(count)]
        places = files[split] if len(files.get(split, [])) == count else names
        parts += [
            HubPart(name, place, stream.shard(count, number), config.text_field, valid)
            for number, (name, place) in enumerate(zip(names, places, strict=True))
        ]
    return parts, hashlib.sha256(json.dumps([version, config.split, config.valid_split]).encode()).hexdigest()[:16]


def _builder(name: str, config: DataConfig) -> tuple[dict[str, Any], dict[str, list[str]], Any]:
    import datasets

    builder = datasets.load_dataset_builder(name, config.config_name, revision=config.revision)
    files: Any = builder.config.data_files or {}
    names = [str(split) for split in builder.info.splits or files]
    if not names:  # a script that knows its splits only when it runs
        names = [config.split, *([config.valid_split] if config.valid_split else [])]
    origins = {str(split): [list(origin) for origin in listed.origin_metadata] for split, listed in files.items()}
    streams = {split: (lambda split=split: builder.as_streaming_dataset(split=split)) for split in names}
    places = {str(split): [str(file) for file in listed] for split, listed in files.items()}
    return streams, places, [builder.hash, builder.config_id, origins]


def _saved(path: Path, config: DataConfig) -> tuple[dict[str, Any], Any]:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote; it is mapped, not read, until it is streamed."""
    import datasets

    found = datasets.load_from_disk(str(path))
    one = isinstance(found, datasets.Dataset)
    loaded = {str(found.split or config.split): found} if one else {str(split): part for split, part in found.items()}
    streams = {
        split: (lambda part=part: part.to_iterable_dataset(num_shards=max(1, min(len(part.cache_files), len(part)))))
        for split, part in loaded.items()
    }
    return streams, {split: part._fingerprint for split, part in loaded.items()}


def _path(config: DataConfig) -> Path:
    assert isinstance(config.source, str)
    return Path(config.source.removeprefix(HUB)).expanduser()


def _no_field(field: str, columns: list[str]) -> ConfigError:
    return ConfigError(f"data.text_field={field!r} is no column of the data set; it has {', '.join(columns[:8])}")


def _broken_file_errors() -> tuple[type[BaseException], ...]:
    import gzip

    import pyarrow

    return gzip.BadGzipFile, pyarrow.ArrowException
