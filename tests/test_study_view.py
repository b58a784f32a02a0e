"""The live view, on a real pseudo-terminal and off one."""

import contextlib
import io
import os
import re
from typing import Any

import pytest
from rich.console import Console

from rlrs.cli.study_view import StudyView
from rlrs.records import RunResult, Trial


def trial(score, move="start", status: Any = "finished", **proposal):
    reason = None if status == "finished" else "given up after 2 attempts: it hung"
    result = RunResult(status=status, steps=100, score=score, valid_loss=None, tokens=1, seconds=0.1, reason=reason)
    return Trial(params={"lr": 1e-3}, move=move, number=0, batch=0, run="", result=result, **proposal)


def play(console):
    """A search with two trials found, a better one, a worse, a cheap, one given up; stopped by Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), StudyView(console=console) as watch:
        watch.stage("search", 4000, searches={"proxy/uniform": 20, "proxy/rlrs": 20})
        watch.trial("proxy/rlrs", trial(4.0), 1e9, found=True)
        watch.trial("proxy/rlrs", trial(4.1, "[bold]up"), 1e9, found=True)
        watch.tick(50)
        watch.trial("proxy/rlrs", trial(3.9, "embedding.start 5 -> 25"), 1e9, found=False)
        watch.trial("proxy/rlrs", trial(3.0, "cheap", steps=10), 1e9, found=False)
        watch.trial("proxy/rlrs", trial(None, "far", status="failed"), 1e9, found=False)
        raise KeyboardInterrupt


def on_terminal(columns, rows, term="xterm-256color"):
    """What a terminal of this size was sent."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as file:
        play(Console(file=file, width=columns, height=rows, _environ={"TERM": term}))
        os.set_blocking(master, False)
        sent = b""
        while True:
            try:
                sent += os.read(master, 65536)
            except BlockingIOError:
                break
    os.close(master)
    return sent.decode()


def test_a_terminal_has_bar_searches_and_last_trials_and_its_cursor_back():
    sent = on_terminal(100, 30)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent)
    final = text[text.rindex("best found by") :]
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "search" in text
    assert any(re.search(r"250/4000 steps", row) for row in rows)  # two found, half a run trained
    assert "proxy/rlrs 3.9000 5 of 20 500 5.0e+09 run 3: embedding.start 5 -> 25" in rows
    assert "all 5 500 5.0e+09" in rows
    assert "proxy/rlrs 3 3.9000 best embedding.start 5 -> 25" in rows
    assert "proxy/rlrs 4 3.0000 cheap cheap" in rows
    assert "proxy/rlrs 5 failed far" in rows
    assert "[bold]up" in final
    assert sent.count("\x1b[?25h") == sent.count("\x1b[?25l") == 1


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (100, 8)])
def test_a_small_terminal_is_not_overrun(columns, rows):
    sent = on_terminal(columns, rows)
    final = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent[sent.rindex("\x1b[2K") :])
    lines = final.splitlines()
    assert len(lines) <= rows
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("dumb", [True, False])
def test_elsewhere_there_are_lines_alone_without_control_codes(dumb):
    if dumb:
        said = on_terminal(100, 30, term="dumb").replace("\r\n", "\n")
    else:
        file = io.StringIO()
        play(Console(file=file, width=80))
        said = file.getvalue()
    assert said.splitlines() == [
        "search ...",
        "2 runs had ended before",
        "proxy/rlrs, run 3: best so far 3.9000 nats (embedding.start 5 -> 25)",
        "proxy/rlrs, run 5: given up after 2 attempts: it hung; the search goes on without it",
    ]


def test_elsewhere_a_line_says_how_far_it_is_where_none_came_for_half_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rlrs.cli.study_view.time.monotonic", lambda: now[0])
    file = io.StringIO()
    with StudyView(console=Console(file=file, width=80)) as watch:
        watch.stage("search", 4000, searches={"proxy/rlrs": 20})
        for second in range(1, 100):
            now[0] = float(second)
            if second == 50:  # a line of its own
                watch.trial("proxy/rlrs", trial(3.9, "up"), 1e9, found=False)
            watch.tick(10 * second)
    assert [line.partition(", at most")[0] for line in file.getvalue().splitlines()] == [
        "search ...",
        "search: 300 of 4,000 steps, 0 runs ended",
        "proxy/rlrs, run 1: best so far 3.9000 nats (up)",
        "search: 800 of 4,000 steps, 1 run ended",
    ]


def test_whether_anything_was_begun_is_known():
    with StudyView(console=Console(file=io.StringIO())) as watch:
        assert not watch.worked
        watch.stage("report", 0)
        assert watch.worked
