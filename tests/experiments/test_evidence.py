"""Parts of the evidence: their runs, what is left of them, and what the page says of unfinished ones."""

from dataclasses import dataclass

from experiments.evidence import __main__ as evidence
from experiments.evidence import parts, store
from rlrs.records import RunResult
from rlrs.study import resolve
from tools import evidence_tables


@dataclass
class Tokens:
    hash: str = "t" * 12
    vocab_size: int = 512
    sequence_length: int = 64


DATA = Tokens()


def test_a_grid_has_every_arm_at_every_rate_and_seed_and_no_run_twice():
    runs = list(parts.rates(DATA))
    assert len(runs) == len(parts.RATES) * len(parts.SEEDS) * len(parts.recipes())
    assert len({run.spec.id for run in runs}) == len(runs)
    assert {run.spec.ratios["embedding"][0] for run in runs if run.arm == "paper's ratios"} == {(0.0, 5.0)}


def test_one_end_of_one_ratio_moves_at_a_time():
    base, *moved = (run for run in parts.u_plots(DATA) if run.spec.seed == parts.SEEDS[0])
    for run in moved:
        changed = [
            (name, at)
            for name, knots in run.spec.ratios.items()
            for at, (old, new) in enumerate(zip(base.spec.ratios[name], knots, strict=True))
            if old != new
        ]
        assert len(changed) == 1, run.what


def test_horizons_are_so_many_tokens_for_each_active_parameter():
    found = {run.spec.steps * run.spec.batch_size * 64 / 58_272 for run in parts.horizons(DATA)}
    assert [round(ratio, 1) for ratio in sorted(found)] == list(parts.TOKENS_PER_ACTIVE)


def test_every_study_is_one_that_can_be_run():
    for part in parts.PARTS:
        if part.study is not None:
            study = resolve(part.study())
            assert study.comparison.seeds >= 3, part.name


def test_a_run_that_has_a_row_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results.parquet")
    part = next(part for part in parts.PARTS if part.name == "contribution")
    left = evidence.missing(part, DATA)
    diverged = RunResult(status="diverged", steps=0, score=None, valid_loss=None, tokens=0, seconds=1.0, diverged_at=1)
    row = store.row(part.name, left[0], diverged, 64, 58_272, {"commit": "c" * 40})
    assert row["tokens_per_active"] == 160 * 8 * 64 / 58_272
    store.save([row])
    assert store.load() == [row]
    assert [run.what for run in evidence.missing(part, DATA)] == [run.what for run in left[1:]]


def test_a_verdict_is_that_of_the_whole_interval():
    words = [evidence_tables._verdict(*ends) for ends in ((-0.2, -0.1), (-0.1, 0.1), (0.1, 0.2))]
    assert words == ["better", "**no difference seen**", "**worse**"]
