"""Preparation of data: peak memory against the size of the corpus, speed, and what a resume costs.

    python -m benchmarks.preparation memory    # minutes
    python -m benchmarks.preparation speed

Corpora are made on the spot: documents are lines of the Python standard library in a random order.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.pairs import paired, summary, write
from rlrs.data import TokenData, prepare
from rlrs.data.order import TABLE, window_order
from rlrs.data.sources import find_files
from rlrs.data.tokenizer import learn
from rlrs.settings import DataConfig

MEGABYTES = (25, 100, 400)
FILE_MEGABYTES = 25
SETTINGS = {"vocab_size": 1024, "vocab_sample": 8_000_000}

PREPARE = """
import json, sys
from rlrs.settings import DataConfig
import rlrs.data, tokenizers, torch
def peak():  # of this program alone; getrusage begins with what the parent had
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
data = rlrs.data.prepare(DataConfig(**json.loads(sys.argv[1])), sys.argv[2])
after = peak()
print(json.dumps([before / 1024, after / 1024, data.train_tokens + data.valid_tokens]))
"""


def documents(seed: int) -> Iterator[str]:
    """Endless, each a few kilobytes."""
    lines = [line for part in find_files(DataConfig()) for line in part.path.read_text().splitlines(keepends=True)]
    choose = random.Random(seed)
    while True:
        yield "".join(choose.choices(lines, k=choose.randint(20, 200)))


def write_corpus(folder: Path, megabytes: int, kind: str) -> int:
    """Files of 25 MB of text; the bytes of text in them."""
    folder.mkdir()
    source, total = documents(0), 0
    for number in range(megabytes // FILE_MEGABYTES):
        texts: list[str] = []
        size = 0
        while size < FILE_MEGABYTES * 1_000_000:
            texts.append(next(source))
            size += len(texts[-1].encode())
        total += size
        name = folder / f"{number:03}.{kind}"
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as parquet

            parquet.write_table(pa.table({"text": texts}), name)
            continue
        text = "".join(texts) if kind == "txt" else "".join(json.dumps({"text": text}) + "\n" for text in texts)
        name.write_bytes(gzip.compress(text.encode(), 1) if kind.endswith("gz") else text.encode())
    return total


def memory() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for kind, sizes in (
            ("jsonl", MEGABYTES),
            ("txt", MEGABYTES),
            ("parquet", MEGABYTES[:2]),
            ("jsonl.gz", MEGABYTES[:2]),
        ):
            for megabytes in sizes:
                folder = Path(place) / f"{kind}-{megabytes}"
                total = write_corpus(folder, megabytes, kind)
                settings = json.dumps({"source": f"files:{folder}/*", **SETTINGS})
                command = [sys.executable, "-c", PREPARE, settings, str(Path(place) / f"data-{kind}-{megabytes}")]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                before, after, tokens = json.loads(done.stdout)
                rows.append(
                    {
                        "format": kind,
                        "text_bytes": total,
                        "tokens": tokens,
                        "libraries_mib": round(before),
                        "peak_mib": round(after),
                        "peak_above_libraries_mib": round(after - before),
                    }
                )
                print(rows[-1], flush=True)
    print(write("preparation_memory", rows))


def speed() -> None:
    with tempfile.TemporaryDirectory() as place:
        rows = [*_against_the_library(Path(place)), *_again(Path(place)), *_resume(Path(place))]
    for row in rows:
        print({key: value for key, value in row.items() if key != "ratios"})
    print(write("preparation_speed", rows))


def _against_the_library(place: Path) -> Iterator[dict]:
    """The whole preparation over nothing but the library's call on text that is in memory already."""
    source = documents(1)
    texts = [next(source) for _ in range(1_500)]
    tokenizer = learn(texts[:200], 1024).tokenizer
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    count = 0

    def ours(kind: str = str(place / "tokenizer.json")) -> None:
        nonlocal count
        count += 1
        prepare(DataConfig(source=f"files:{place}/corpus.jsonl", tokenizer=kind), place / f"data-{count}")

    def library() -> None:
        for start in range(0, len(texts), 256):
            np.array(
                [
                    token
                    for encoding in tokenizer.encode_batch_fast(texts[start : start + 256])
                    for token in encoding.ids
                ]
            )

    ratios = paired(ours, library, rounds=9)
    yield {"what": "time of a preparation / of the library's calls alone", **summary(ratios), "ratios": ratios}
    ratios = paired(lambda: ours("bytes"), ours, rounds=5)
    yield {"what": "time of a preparation, bytes / byte pairs", **summary(ratios), "ratios": ratios}


def _again(place: Path) -> Iterator[dict]:
    """A second start over the first; between them so much time that file times settle."""
    settings = DataConfig(source=f"files:{place}/corpus.jsonl", tokenizer=str(place / "tokenizer.json"))
    start = time.perf_counter()
    prepare(settings, place / "again")
    first = time.perf_counter() - start
    time.sleep(3)
    prepare(settings, place / "again")
    start = time.perf_counter()
    prepare(settings, place / "again")
    second = time.perf_counter() - start
    yield {"what": "time of opening prepared data / of preparing them", "ratio": second / first, "seconds": second}


def _resume(place: Path) -> Iterator[dict]:
    """The first batch after a resume, orders not yet computed, at an early and at a late step."""
    for windows in (TABLE, 10**9):
        for epoch in (0, 3):
            first = epoch * windows + windows - 300  # across the end of an epoch: the dearest place
            start = time.perf_counter()
            window_order(windows, 7 + epoch, first, 512)
            yield {
                "what": "order of a batch of 512 after a resume",
                "windows": windows,
                "step": first // 512,
                "seconds": time.perf_counter() - start,
            }
    shard = np.zeros(2**20, dtype=np.uint16)
    data = TokenData(train=[shard] * 200, valid=shard, sequence_length=512, vocab_size=2, hash="")
    one = TokenData(train=shard, valid=shard, sequence_length=512, vocab_size=2, hash="")
    steps = iter(range(10**9))

    def batches(data: TokenData) -> None:
        for _ in range(200):
            data.batch(0, next(steps), 64)

    ratios = paired(lambda: batches(data), lambda: batches(one), rounds=15)
    yield {"what": "time of a batch, 200 shards / one shard", **summary(ratios), "ratios": ratios}


if __name__ == "__main__":
    {"memory": memory, "speed": speed}[sys.argv[1] if len(sys.argv) > 1 else "speed"]()
