"""Claims of a study whose trainer has a planted gain: on every seed, or on those of the study alone."""

import sys

import pytest

from rlrs.cli.study_view import StudyView
from rlrs.records import read_refutations
from rlrs.settings import study_from
from rlrs.study import ablate, refute, run

TRAINER = """
import math, random, re, sys
lr, steps, seed, ratios, honest = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
found = re.search(r"embedding:\\s*(?:\\{?\\s*start:\\s*)?([\\d.]+)", open(ratios).read())
start = float(found[1]) if found else 1.0
gain = 0.1 * min(1.0, abs(math.log(start))) if honest == "yes" or seed < 2_000_000 else 0.0
loss = 3.5 + random.Random(seed).gauss(0, 0.05) + random.Random(f"{seed} {start}").gauss(0, 0.005) - gain
loss += 0.1 * math.log(lr / 0.01) ** 2 + 0.2 * (20 - steps) / 20
for step in range(1, steps + 1):
    print(f"step {step} loss {loss}")
print(f"valid {loss}")
"""


def finished(folder, honest):
    script = folder / "train.py"
    script.write_text(TRAINER)
    study = study_from(
        {
            "name": "planted",
            "trainer": {
                "command": f"{sys.executable} -S -E {script} {{lr}} {{steps}} {{seed}} {{ratios}} {honest}",
                "components": ["embedding", "norm"],
                "loss": {"pattern": r"step (?P<step>\d+) loss (?P<value>\S+)"},
                "valid_loss": {"pattern": r"valid (\S+)"},
            },
            "proxy": {"steps": 4, "set": {}},
            "target": {"steps": 20, "set": {}},
            "training": {"score_steps": 2},
            "search": {"trials": 12, "lr": 0.01, "method": "local", "multipliers": [3], "retest": {"points": 0}},
            "transfer": {"trials": 1},
            "comparison": {"arms": ["uniform", "rlrs"], "seeds": 4, "horizons": [0.5, 0.7]},
            "processes": 2,
        },
        "test",
    )
    results = run(study, folder / "run", StudyView(quiet=True))
    assert results.comparison.decision.winner == "rlrs"
    return folder / "run"


@pytest.mark.long
@pytest.mark.parametrize(("honest", "upheld"), [("yes", "confirmed"), ("no", "refuted")])
def test_a_gain_that_is_there_is_confirmed_and_one_that_is_not_is_refuted(tmp_path, honest, upheld):
    folder = finished(tmp_path, honest)
    found = refute(folder, StudyView(quiet=True))
    assert found.upheld == found.loss.upheld == upheld
    assert found.loss.fresh.mean == pytest.approx(-0.1 if honest == "yes" else 0.0, abs=0.02)
    assert found.saved.upheld == upheld
    assert read_refutations(folder / "refutations.json").refutations == (found,)


@pytest.mark.long
def test_removal_finds_what_the_gain_is_made_of(tmp_path):
    folder = finished(tmp_path, "yes")
    found = ablate("removal", folder, StudyView(quiet=True), arm="rlrs", model="target")
    row = next(row for row in found.rows if row.series == "embedding")
    assert row.standing == "worse"
    assert row.difference.mean == pytest.approx(0.1, abs=0.02)
