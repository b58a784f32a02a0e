"""What bad data configurations say: makes each, runs `rlrs train` on it, rewrites the table of docs/data.md.

python -m tools.bad_data
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.bad_runs import train

DOCUMENT = Path(__file__).parents[1] / "docs" / "data.md"
BEGIN, END = "<!-- table: python -m tools.bad_data -->", "<!-- end of table -->"

STUDY = """
name: bad
data: {data}
proxy: {{model: {{d_model: 16, n_heads: 2}}, steps: 4, batch_size: 4}}
target: {{model: {{d_model: 16, n_heads: 2}}, steps: 4, batch_size: 4}}
"""

BAD = (
    "{source: c4}",
    "{source: 'files:corpus/*.csv'}",
    "{source: 'files:corpus/cut.txt.gz'}",
    "{source: 'files:corpus/picture.txt'}",
    "{source: 'files:corpus/empty.txt'}",
    "{source: 'files:corpus/lines.jsonl'}",
    "{source: 'files:corpus/lines.jsonl', text_field: body}",
    "{source: 'files:corpus/page.parquet'}",
    "{source: 'files:corpus/*.txt.zst', damaged: ignore}",
    "{source: 'hf:./none'}",
    "{source: 'hf:./set', split: test}",
    "{source: 'hf:./set', text_field: body}",
    "{source: stdlib, config_name: en}",
    "{tokenizer: words.json}",
    "{tokenizer: bytes, vocab_size: 50257}",
    "{max_bytes: 5}",
    "{source: 'files:corpus/short.txt', tokenizer: bytes, sequence_length: 1000}",
)


def make_corpus(folder: Path) -> None:
    """Files that the configurations speak of."""
    (folder / "corpus").mkdir()
    (folder / "corpus" / "cut.txt.gz").write_bytes(gzip.compress(b"a text\n" * 1_000)[:40])
    (folder / "corpus" / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "corpus" / "empty.txt").write_bytes(b"")
    (folder / "corpus" / "lines.jsonl").write_text('{"text": "one"}\n{"text": "two\n{"id": 3}\n')
    (folder / "corpus" / "page.parquet").write_text("<html>not found</html>")
    (folder / "corpus" / "short.txt").write_text("a few words\n" * 60)
    (folder / "set").mkdir()
    (folder / "set" / "train.jsonl").write_text('{"text": "one", "id": 1}\n' * 10)


def rows() -> Iterator[tuple[str, str]]:
    """Configuration, and the line that it ends in."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        make_corpus(Path(place))
        os.chdir(place)
        try:
            for data in BAD:
                Path("study.yaml").write_text(STUDY.format(data=data))
                (line,) = [line for line in train("").splitlines() if line.startswith("error: ")]
                assert not Path("run").exists(), f"{data} left files behind"
                yield data, line.removeprefix("error: ").replace(f"{place}/", "").replace(place, "FOLDER")
        finally:
            os.chdir(home)


def table() -> str:
    """As in docs/data.md."""
    lines = ["| `data:` | message |", "| --- | --- |"]
    lines += [f"| `{data}` | {line.replace('|', '&#124;')} |" for data, line in rows()]
    return "\n".join(lines)


def document(text: str) -> str:
    """The page with its table replaced."""
    before, found, rest = text.partition(BEGIN)
    assert found, f"{DOCUMENT} has no place for the table"
    return f"{before}{found}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
    print(DOCUMENT)
