"""Attacks on audit trails: edits of every kind, and kills of a writer.

    python tests/audit_attacks.py --edits 500 --kills 50 --out experiments/audit/results.json

prints how many edits were found and named, whether kills lost anything, and what appending and verifying cost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import rfc8785

from rlrs.audit import Anchor, Trail, TrailReport

ENTRIES = 40
Check = Callable[[TrailReport], bool]


def written(folder: Path, entries: int = ENTRIES) -> tuple[list[bytes], Anchor]:
    """The lines of a new trail, with their line breaks, and its anchor."""
    trail = Trail(folder)
    for number in range(entries):
        facts = {"decision": f"go on {number}", "reason": "naïve — 測定" * (number % 4), "loss": 3.5 / (number + 1)}
        trail.append("decision", facts)
    return trail.path.read_bytes().splitlines(keepends=True), trail.anchor()


def names(*kinds: str, entry: int | None = None, line: int | None = None) -> Check:
    """Whether what was found has one of these kinds, about this entry, on this line."""

    def check(result: TrailReport) -> bool:
        return any(
            one.kind in kinds
            and (entry is None or (one.entry is not None and one.entry <= entry <= (one.last or one.entry)))
            and (line is None or one.line == line)
            for one in result.found
        )

    return check


def flip(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """One byte becomes another."""
    data = bytearray(b"".join(lines))
    place = dice.randrange(len(data))
    data[place] ^= dice.randrange(1, 256)
    entry = bytes(b"".join(lines))[:place].count(b"\n")
    return bytes(data), names("edited", "truncated", entry=entry)


def swap(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """Two lines change places."""
    first, second = dice.sample(range(len(lines)), 2)
    mixed = list(lines)
    mixed[first], mixed[second] = lines[second], lines[first]
    return b"".join(mixed), lambda result: any(names("reordered", entry=e)(result) for e in (first, second))


def remove(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """One to three lines that stand together go."""
    first = dice.randrange(len(lines))
    last = min(first + dice.randrange(3), len(lines) - 1)
    kind = "truncated" if last == len(lines) - 1 else "removed"
    return b"".join(lines[:first] + lines[last + 1 :]), lambda result: all(
        names(kind, entry=e)(result) for e in (first, last)
    )


def duplicate(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """A line stands in the file once more."""
    copied, place = dice.randrange(len(lines)), dice.randrange(len(lines) + 1)
    return b"".join([*lines[:place], lines[copied], *lines[place:]]), names("duplicated", entry=copied)


def truncate(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """The file ends early, at any byte, the last line break too."""
    data = b"".join(lines)
    place = len(data) - 1 if dice.random() < 0.1 else dice.randrange(len(data))
    return data[:place], names("truncated", entry=data[:place].count(b"\n"))


def insert(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """A line that was never written: one that points at the right entry and has a right hash, or junk."""
    place = dice.randrange(1, len(lines))
    entry = json.loads(lines[place])["entry"]
    forged = sealed({**entry, "facts": {"decision": "stop", "reason": "forged"}})
    if dice.random() < 0.3:
        forged = dice.randbytes(80).replace(b"\n", b"?") + b"\n"
    return b"".join([*lines[:place], forged, *lines[place:]]), names("inserted", line=place + 1)


def reseal(lines: list[bytes], dice: random.Random) -> tuple[bytes, Check]:
    """A field is changed, and the hash of that entry made right again."""
    place = dice.randrange(len(lines))
    entry = json.loads(lines[place])["entry"]
    field = dice.choice(["actor", "at", "facts", "index", "kind", "previous"])
    changed = {
        "actor": "somebody else",
        "at": "2020-01-01T00:00:00.000000Z",
        "facts": {"decision": "stop", "reason": "changed"},
        "index": dice.choice([n for n in range(len(lines) + 5) if n != place]),
        "kind": "override",
        "previous": hashlib.sha256(dice.randbytes(8)).hexdigest(),
    }
    resealed = sealed({**entry, field: changed[field]})
    kinds = ("edited", "replaced", "rewritten")
    return b"".join([*lines[:place], resealed, *lines[place + 1 :]]), names(*kinds, entry=place)


def sealed(entry: dict[str, object]) -> bytes:
    """The line of an entry, with the hash that it should have."""
    body = rfc8785.dumps(entry)  # type: ignore[arg-type]
    return b'{"entry":' + body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


EDITS = (flip, swap, remove, duplicate, truncate, insert, reseal)


def edited(count: int, seed: int) -> dict[str, object]:
    """So many random edits, each of a trail that is whole: how many were found, how many named as what they were."""
    dice, tried, found, named, missed = random.Random(seed), Counter(), Counter(), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        lines, anchor = written(Path(folder))
        trail = Trail(folder)
        for number in range(count):
            edit = EDITS[number % len(EDITS)]
            data, check = edit(lines, dice)
            trail.path.write_bytes(data)
            result = trail.verify(anchor)
            tried[edit.__name__] += 1
            found[edit.__name__] += not result.intact
            named[edit.__name__] += check(result)
            if not check(result):
                missed.append({"edit": edit.__name__, "number": number, "found": [str(one) for one in result.found]})
    return {"seed": seed, "tried": dict(tried), "found": dict(found), "named": dict(named), "missed": missed}


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["rlrs.audit.tampering"])  # a writer then starts in milliseconds


def _append(folder: str, entries: int, padding: int, actor: str, acknowledged: Connection) -> None:
    trail = Trail(folder)
    for number in range(entries):
        entry = trail.append("x-step", {"number": number, "padding": "x" * padding}, actor=actor)
        acknowledged.send(entry.index)


def writer(folder: str, entries: int, padding: int = 10, actor: str = "writer") -> tuple[BaseProcess, Connection]:
    """A process that appends entries, and where it tells the index of each that is on disk."""
    reading, writing = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_append, args=(folder, entries, padding, actor, writing), daemon=True)
    process.start()
    writing.close()
    return process, reading


def told(reading: Connection) -> Iterator[int]:
    """What a writer told before it ended."""
    with reading:
        while True:
            try:
                yield reading.recv()
            except (EOFError, OSError):  # OSError: killed while it told
                return


def killed(count: int, seed: int) -> dict[str, object]:
    """A writer, killed so often at random moments; each life goes on with the same trail."""
    dice, acknowledged, torn = random.Random(seed), set(), 0
    with tempfile.TemporaryDirectory() as folder:
        trail = Trail(folder)
        for _ in range(count):
            process, reading = writer(folder, 10**6, padding=dice.choice([10, 10_000, 500_000]))
            first = reading.recv()  # it has begun
            time.sleep(dice.uniform(0, 0.05))
            process.kill()
            process.join()
            acknowledged |= {first, *told(reading)}
            torn += not trail.path.read_bytes().endswith(b"\n")
        trail.append("x-after")
        result = trail.verify()
        entries = {entry.index: entry.kind for entry in trail}
    return {
        **{"seed": seed, "kills": count, "acknowledged": len(acknowledged), "lost": len(acknowledged - entries.keys())},
        **{
            "torn": torn,
            "set_aside": [*entries.values()].count("torn"),
            "entries": result.entries,
            "intact": result.intact,
        },
    }


def interleaved(writers: int, entries: int) -> dict[str, object]:
    """So many writers at once: whether every entry of every one is there once, in its order."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        running = [writer(folder, entries, actor=f"writer {n}") for n in range(writers)]
        for process, reading in running:
            assert len(list(told(reading))) == entries
            process.join()
        seconds = time.perf_counter() - began
        trail = Trail(folder)
        by = {f"writer {n}": [e.facts["number"] for e in trail if e.actor == f"writer {n}"] for n in range(writers)}
        return {
            "writers": writers,
            "entries": sum(len(numbers) for numbers in by.values()),
            "whole": all(numbers == list(range(entries)) for numbers in by.values()) and trail.verify().intact,
            "changes_of_writer": sum(a.actor != b.actor for a, b in zip(trail, [*trail][1:], strict=False)),
            "seconds": round(seconds, 2),
        }


def cost(appended: int, verified: int) -> dict[str, object]:
    """Entries a second, synced one by one, and seconds to verify a long trail."""
    with tempfile.TemporaryDirectory() as folder:
        trail = Trail(folder)
        began, working = time.perf_counter(), time.process_time()
        for number in range(appended):
            trail.append("decision", {"decision": "go on", "reason": f"step {number}"})
        seconds, own = time.perf_counter() - began, time.process_time() - working
    with tempfile.TemporaryDirectory() as folder:
        trail, previous = Trail(folder), "0" * 64
        with trail.path.open("wb") as file:  # without syncing each
            for index in range(verified):
                facts = {"decision": "go on", "reason": f"step {index}"}
                entry = {"actor": "ann", "at": "2026-01-01T00:00:00.000000Z", "facts": facts, "format": 1}
                line = sealed({**entry, "index": index, "kind": "decision", "previous": previous})
                previous = line[-67:-3].decode()
                file.write(line)
        began, working = time.perf_counter(), time.process_time()
        result = trail.verify()
        took, worked = time.perf_counter() - began, time.process_time() - working
        assert result.intact
        assert result.entries == verified
        size = trail.path.stat().st_size
    return {
        "appended": {"entries": appended, "per_second": round(appended / seconds), "cpu_seconds": round(own, 2)},
        "verified": {"entries": verified, "bytes": size, "seconds": round(took, 2), "cpu_seconds": round(worked, 2)},
    }


def main() -> None:
    """Run the attacks and print, or write, what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = {
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.system()},
        "edits": edited(asked.edits, asked.seed),
        "kills": killed(asked.kills, asked.seed),
        "writers": interleaved(4, 100),
        "cost": cost(1000, 100_000),
    }
    text = json.dumps(results, indent=1) + "\n"
    if asked.out:
        asked.out.write_text(text)
    print(text)
    good = results["edits"]["tried"] == results["edits"]["named"]  # type: ignore[index]
    sys.exit(0 if good and not results["kills"]["lost"] and results["kills"]["intact"] else 1)  # type: ignore[index]


if __name__ == "__main__":
    main()
