"""The tables of docs/evidence.md, from the committed results of the experiments.

python -m tools.evidence_tables
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean

from experiments.evidence import store
from experiments.evidence.parts import PARTS, RATES
from experiments.ladder import store as ladder
from experiments.ladder.measure import settings as ladder_settings
from experiments.method_proxy import measure as method_proxy
from experiments.method_proxy import store as proxy_store
from experiments.rows import Row
from rlrs.comparison import interval
from rlrs.files import write_atomic
from rlrs.inspection import meta_model
from rlrs.models import count_parameters
from rlrs.settings import ModelConfig
from tools.speed_tables import BEGIN, END

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "evidence.md"
STUDIES = {
    "demo/demo.json": "default search, 36 trials an arm",
    "demo/demo_before_rebuild.json": "the same, before searches became records",
    "demo/demo_before_rebuild_local_search.json": "the paper's local search, same processor",
    "demo/demo_local_search.json": "the paper's local search, another processor",
    "demo/demo_other_processor.json": "an Intel Xeon, earlier commit",
    "demo/demo_smaller_budget.json": "28 trials an arm",
    "finetuning/full.json": "fine-tuning, all weights",
    "finetuning/lora.json": "fine-tuning, LoRA",
}
"""File of results -> what is different about the study."""
PAPER = {"uniform": "up to 23 %"}
"""Control -> the paper's figure for steps saved against it."""
NEAR, LOST = 0.05, 1.0
"""Nats above an arm's best mean: still near it; lost, though the run did not diverge. Chosen here."""


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    names = list(head)
    return "\n".join(
        [f"| {' | '.join(names)} |", "| --- " * len(names) + "|", *(f"| {' | '.join(c)} |" for c in lines)]
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _verdict(low: float, high: float) -> str:
    """Of a difference in loss."""
    return "better" if high < 0 else "**worse**" if low > 0 else "**no difference seen**"


def _studies() -> dict[str, str]:
    own = {f"evidence/{part.name}.json": part.question for part in PARTS if part.study is not None}
    return STUDIES | {name: what for name, what in own.items() if (ROOT / "experiments" / name).exists()}


def saved() -> str:
    """What relative schedules save on each control of every committed study."""
    lines = []
    for name, what in _studies().items():
        results = json.loads((ROOT / "experiments" / name).read_text())
        comparison, parameters = results["comparison"], results["models"]["target"]["parameters"]
        per_active = comparison["tokens"] / parameters["active"]
        for control, gap in comparison["differences"].items():
            steps = comparison["speed_up"].get(control)
            share = "-" if steps is None else f"{steps['mean']:.0%} ({steps['low']:.0%} to {steps['high']:.0%})"
            lines.append(
                (
                    what,
                    _words(control),
                    PAPER.get(control, "-") if name.startswith(("demo", "evidence")) else "-",
                    share,
                    f"{gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})",
                    _verdict(gap["low"], gap["high"]),
                    str(len(comparison["seeds"])),
                    f"{parameters['total']:,}",
                    f"{per_active:.2f}",
                    f"`{results['environment']['commit'][:7]}`",
                    f"[{Path(name).name}](../experiments/{name})",
                )
            )
    head = ("study", "control", "the paper reports", "steps saved, 95 %", "loss less the control's, nats, 95 %",
            "verdict", "seeds", "parameters", "tokens per active parameter", "commit", "raw")  # fmt: skip
    return _table(head, lines)


def _paired(mine: dict[int, float], theirs: dict[int, float]) -> tuple[str, str, int]:
    """Difference with its interval, verdict, and number of common seeds."""
    seeds = sorted(mine.keys() & theirs.keys())
    if len(seeds) < 2:
        return "-", "-", len(seeds)
    found = interval([mine[seed] - theirs[seed] for seed in seeds])
    return (
        f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})",
        _verdict(found.low, found.high),
        len(seeds),
    )


def _active(model: ModelConfig, vocab_size: int) -> int:
    return count_parameters(meta_model(model, vocab_size)).active


def _proxy_lines() -> Iterator[tuple[str, ...]]:
    rows = [row for row in proxy_store.load() if row["kind"] == "loss" and not row.get("design")]
    losses: dict[str, dict[int, float]] = {}
    commits: dict[str, str] = {}
    for row in rows:
        losses.setdefault(row["arm"], {})[row["seed"]] = row["valid_loss"]
        commits[row["arm"]] = row["commit"][:7]
    tokens = method_proxy.STEPS * method_proxy.BATCH_SIZE * method_proxy.DATA.sequence_length
    per_active = tokens / _active(method_proxy.MODEL, method_proxy.DATA.vocab_size)
    for mine in ("search", "second search"):
        for control in ("uniform", "paper", "embedding only"):
            gap, verdict, seeds = _paired(losses[mine], losses[control])
            name = "the paper's ratios" if control == "paper" else control
            yield (f"{mine} of 28 runs on the proxy", name, gap, verdict, str(seeds), f"{per_active:.2f}",
                   f"`{commits[mine]}`", "[method_proxy](../experiments/method_proxy/README.md)")  # fmt: skip
    gap, verdict, seeds = _paired(losses["paper"], losses["embedding only"])
    yield ("the paper's ratios on the proxy", "embedding only, tuned", gap, verdict, str(seeds), f"{per_active:.2f}",
           f"`{commits['paper']}`", "[method_proxy](../experiments/method_proxy/README.md)")  # fmt: skip


_LADDERS = {
    "dense": (
        (("law", "rlrs"), ("unchanged", "rlrs"), "ratios by an earlier law, dense ladder", "ratios carried unchanged"),
        (("unchanged", "rlrs"), ("unchanged", "uniform"), "ratios carried unchanged, dense ladder", "uniform"),
        (("unchanged", "rlrs"), ("unchanged", "embedding_only"), "the same", "embedding only"),
    ),
    "moe": (
        (("law", "rlrs"), ("unchanged", "rlrs"), "ratios by the law, mixture's ladder", "ratios carried unchanged"),
        (("unchanged", "rlrs"), ("unchanged", "uniform"), "ratios carried unchanged, mixture's ladder", "uniform"),
        (("unchanged", "rlrs"), ("unchanged", "embedding_only"), "the same", "embedding only"),
    ),
}


def _ladder_lines() -> Iterator[tuple[str, ...]]:
    for models, pairs in _LADDERS.items():
        rows = [r for r in ladder.load() if (r["kind"], r.get("models"), r["what"]) == ("truth", models, "valid_loss")]
        target = ladder_settings(models, "unchanged")["target"]
        tokens = target["steps"] * target["batch_size"] * 64
        per_active = tokens / _active(ModelConfig(**target["model"]), 512)
        arms: dict[tuple[str, str], dict[int, float]] = {}
        for row in rows:
            arms.setdefault((row["method"], row["arm"]), {})[row["seed"]] = row["value"]
        for mine, theirs, what, control in pairs:
            gap, verdict, seeds = _paired(arms[mine], arms[theirs])
            yield (what, control, gap, verdict, str(seeds), f"{per_active:.2f}", f"`{rows[0]['commit'][:7]}`",
                   "[ladder](../experiments/ladder/README.md)")  # fmt: skip


def compared() -> str:
    """Paired differences of experiments that are no studies."""
    head = ("what", "control", "loss less the control's, nats, 95 %", "verdict", "seeds", "tokens per active parameter",
            "commit", "raw")  # fmt: skip
    return _table(head, [*_proxy_lines(), *_ladder_lines()])


def _curves() -> dict[str, dict[float, list[Row]]]:
    """Arm -> base rate -> its rows."""
    found: dict[str, dict[float, list[Row]]] = {}
    for row in store.load():
        if row["part"] == "rates":
            found.setdefault(row["arm"], {}).setdefault(row["lr"], []).append(row)
    return found


def _mean(rows: list[Row]) -> float:
    """Mean validation loss; infinite if a run diverged."""
    return fmean(row.get("valid_loss", math.inf) for row in rows)


def rates() -> str:
    """Best base rate of every arm, how flat its curve is there, and how many of its runs are lost."""
    curves, lines = _curves(), []
    best = {arm: min(curve, key=lambda lr: _mean(curve[lr])) for arm, curve in curves.items()}
    for arm, curve in curves.items():
        least = _mean(curve[best[arm]])
        near = [lr for lr, rows in curve.items() if _mean(rows) <= least + NEAR]
        runs = [row for rows in curve.values() for row in rows]
        diverged = sum(row["status"] == "diverged" for row in runs)
        lost = sum(row["status"] == "finished" and row["valid_loss"] > least + LOST for row in runs)
        own, theirs = (
            {row["seed"]: row["valid_loss"] for row in curves[name][best[name]]} for name in ("relative", arm)
        )
        gap, verdict, seeds = ("", "", len(theirs)) if arm == "relative" else _paired(own, theirs)
        lines.append(
            (
                arm,
                f"{best[arm]:.3g}",
                f"{least:.3f}",
                f"{min(near):.3g} to {max(near):.3g} (x {max(near) / min(near):.1f})",
                f"{diverged} of {len(runs)}",
                f"{lost} of {len(runs)}",
                gap,
                verdict,
                str(seeds),
                f"{runs[0]['tokens_per_active']:.2f}",
                ", ".join(sorted({f"`{row['commit'][:7]}`" for row in runs})),
            )
        )
    head = ("arm", "best base rate", "loss there, nats", f"within {NEAR:g} nats of it", "diverged",
            f"not diverged, {LOST:g} nat or more above", "relative less it, each at its best, 95 %", "relative is",
            "seeds", "tokens per active parameter", "commit")  # fmt: skip
    return _table(head, lines)


def curve() -> str:
    """Mean validation loss of every arm at every base rate."""
    curves = _curves()
    lines = []
    for lr in RATES:
        cells = []
        for arm in curves:
            rows = curves[arm].get(lr, [])
            ended = [row["valid_loss"] for row in rows if "valid_loss" in row]
            bad = len(rows) - len(ended)
            mean = f"{fmean(ended):.3f}" if ended else "-"
            cells.append(mean + (f", {bad} of {len(rows)} diverged" if bad else ""))
        lines.append((f"{lr:.3g}", *cells))
    return _table(("base rate", *curves), lines)


def gaps() -> str:
    """Parts that are not measured yet, or not whole, with the cost of measuring them."""
    costs = json.loads((ROOT / "experiments" / "evidence" / "costs.json").read_text())["parts"]
    done = Counter(row["part"] for row in store.load())
    lines = []
    for part in PARTS:
        runs, hours = costs[part.name]["runs"], costs[part.name]["hours"]
        left = runs - done[part.name]
        if not left or f"evidence/{part.name}.json" in _studies():
            continue
        state = f"{done[part.name]} of {runs} runs" if done[part.name] else "not measured yet"
        lines.append((f"`{part.name}`", part.question, part.paper, state, str(left), f"{hours * left / runs:.2f}"))
    return _table(("part", "question", "the paper reports", "measured here", "runs left", "hours of a core"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "saved": saved,
    "compared": compared,
    "rates": rates,
    "curve": curve,
    "gaps": gaps,
}


def document(page: str) -> str:
    """The page with its tables replaced."""
    for name, table in TABLES.items():
        before, found, rest = page.partition(BEGIN.format(name))
        assert found, name
        page = f"{before}{found}\n{table()}\n{END}{rest.partition(END)[2]}"
    return page


def main() -> None:
    write_atomic(DOCUMENT, document(DOCUMENT.read_text()))
    print(DOCUMENT)


if __name__ == "__main__":
    main()
