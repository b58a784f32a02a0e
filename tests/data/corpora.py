"""Small corpora in every format, and what is read back of prepared ones."""

import gzip
import json

import numpy as np
import zstandard
from tokenizers import Tokenizer

from rlrs.data.tokenizer import END_OF_TEXT
from rlrs.settings import DataConfig


def config(source, **settings):
    source = source if isinstance(source, (str, tuple)) else f"files:{source}/*.txt"
    small = {"source": source, "sequence_length": 16, "valid_fraction": 0.2}
    if settings.get("tokenizer", "bpe") == "bpe":
        small["vocab_size"] = 300
    return DataConfig(**small | settings)


def write_jsonl(path, texts, field="text"):
    lines = "".join(json.dumps({"id": number, field: text}) + "\n" for number, text in enumerate(texts))
    write_packed(path, lines.encode())
    return path


def write_packed(path, data):
    """Bytes, compressed as the name of the file says."""
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_parquet(path, texts, field="text"):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": list(range(len(texts))), field: texts})
    parquet.write_table(table, path, row_group_size=50)
    return path


def documents_of(folder, stream):
    """Texts of a stream, from its tokens."""
    facts = json.loads((folder / "data.json").read_text())
    tokens = np.concatenate([np.fromfile(path, facts["dtype"]) for path in sorted(folder.glob(f"{stream}-*.bin"))])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = tokenizer.decode(tokens.tolist(), skip_special_tokens=False).split(END_OF_TEXT)
    assert texts.pop() == "", "the last document has no end"
    return texts


def both(folder):
    """Texts of both streams, sorted."""
    return sorted([*documents_of(folder, "train"), *documents_of(folder, "valid")])
