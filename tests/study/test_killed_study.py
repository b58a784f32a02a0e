"""The demo killed (SIGKILL) at random moments and started again each time, against one that was left alone.

Takes a quarter of an hour, so it runs on demand only: `make killed`. Writes experiments/killed/killed_study.json.
"""

import itertools
import os
import random
from pathlib import Path

import pytest
from killing import run_killed, run_whole, same_end

from benchmarks.pairs import write

ROOT = Path(__file__).parents[2]
STUDY = Path(os.environ.get("RLRS_KILLED_STUDY", ROOT / "configs" / "demo.yaml"))
KILLS = 5


@pytest.mark.killed
def test_a_study_killed_five_times_ends_with_the_bytes_and_losses_of_one_left_alone(tmp_path):
    seconds = run_whole(STUDY, tmp_path / "whole")
    seed = int.from_bytes(os.urandom(2))
    moments = random.Random(seed)
    # Moments anywhere in the run; a life is the time from one to the next, so what starting again costs comes on top.
    at = sorted(moments.uniform(0, 0.9 * seconds) for _ in range(KILLS))
    after = [max(later - earlier, 2.0) for earlier, later in itertools.pairwise([0.0, *at])]
    kills = run_killed(STUDY, tmp_path / "killed", after)
    same = same_end(tmp_path / "whole", tmp_path / "killed")
    study = str(STUDY.relative_to(ROOT) if STUDY.is_relative_to(ROOT) else STUDY)
    row = {"study": study, "seconds": seconds, "seed": seed, "kills": kills, "same": same}
    write("killed_study", [row], ROOT / "experiments" / "killed")
    assert any(kill["killed"] for kill in kills)
    assert same, kills
