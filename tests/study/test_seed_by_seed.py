"""A comparison that goes on seed by seed until it is decided, and goes on where it was stopped."""

import pytest
from sample_results import STUDY, arms

from rlrs.records import RunResult
from rlrs.search import EngineError
from rlrs.settings import StudyConfig, changing, difference
from rlrs.study import plan
from rlrs.study.kinds import ReferenceRuns
from rlrs.study.stages import Stages

GAPS = {"uniform": 0.0, "embedding_only": 0.1, "constant": 0.15}


class Engine:
    """Answers every run at once, with a loss that its arm, as its ratios tell it, and its seed decide."""

    def __init__(self, gap, noise):
        self.gaps, self.noise = {**GAPS, "rlrs": gap}, noise
        self.steps, self.ran, self.waiting = 0, [], []

    @property
    def pending(self):
        return len(self.waiting)

    def submit(self, key, spec, folder):
        self.waiting.append((key, spec))

    def next(self, tick):
        (arm, seed, horizon), spec = self.waiting.pop(0)
        self.ran.append((arm, seed, horizon))
        jitter = self.noise[seed % len(self.noise)] * (arm == "rlrs") + 0.01 * seed
        loss = 3.5 - self.gaps[arm] + jitter + 0.3 * (1 - horizon)
        return (arm, seed, horizon), RunResult(
            status="finished", steps=spec.steps, score=loss, valid_loss=loss, tokens=1, seconds=0.0
        )


class Quiet:
    def stage(self, *args, **kwargs): ...
    def tick(self, done): ...


class Data:
    hash, vocab_size, sequence_length = "d" * 12, 300, 64


def compared(tmp_path, gap, noise, **settings):
    plain = STUDY.model_dump(mode="json")
    plain["comparison"] |= {"seeds": 3, "stop": "anytime", "max_seeds": 8, "horizons": [0.5], **settings}
    engine = Engine(gap, noise)
    study = StudyConfig.model_validate(plain)
    stages = Stages(study, tmp_path, ReferenceRuns(study, Data()), engine, None, Quiet())
    return stages.comparison(arms()), engine


def test_it_stops_at_the_first_look_that_decides(tmp_path):
    found, engine = compared(tmp_path, 0.3, (0.001, -0.002, 0.001, 0.0), seeds=4)
    assert found.seeds == (1, 2, 3, 4)
    assert (found.decision.winner, found.stopping.reason) == ("rlrs", "gain")
    assert "after 4 paired seeds" in found.stopping.sentence
    assert len(engine.ran) == 4 * 5  # four arms, and one shorter run of rlrs


def test_it_takes_further_seeds_one_by_one_and_trains_none_twice(tmp_path):
    found, engine = compared(tmp_path, 0.3, (0.03, -0.04, 0.02, 0.0, 0.03))
    assert 3 < len(found.seeds) < 8
    assert found.stopping.reason == "gain"
    assert len(engine.ran) == len(set(engine.ran)) == 5 * len(found.seeds)
    again, _ = compared(tmp_path, 0.3, (0.03, -0.04, 0.02, 0.0, 0.03))
    assert again == found


def test_it_ends_undecided_at_the_most_seeds(tmp_path):
    found, _ = compared(tmp_path, 0.16, (0.2, -0.2, 0.1), margin=0.001)
    assert found.seeds == tuple(range(1, 9))
    assert found.stopping.reason == "max_seeds"
    assert found.decision.winner == "constant"


def test_the_simpler_arm_that_wins_is_run_shorter_too(tmp_path):
    found, engine = compared(tmp_path, 0.16, (0.2, -0.2, 0.1), margin=0.001)
    assert engine.ran[-8:] == [("constant", seed, 0.5) for seed in range(1, 9)]
    assert found.winner_speed_up["uniform"].mean > 0
    assert set(found.winner_speed_up) == {"uniform", "embedding_only"}
    gain, engine = compared(tmp_path, 0.3, (0.001, -0.002, 0.001, 0.0), seeds=4)
    assert gain.winner_speed_up == {}


def test_it_stops_where_a_gain_beyond_the_margin_is_ruled_out(tmp_path):
    found, _ = compared(tmp_path, 0.15, (0.001, -0.001, 0.0), margin=0.02)
    assert (found.decision.winner, found.stopping.reason) == ("constant", "no_gain")


def test_a_run_that_was_given_up_names_itself(tmp_path):
    class Broken(Engine):
        def next(self, tick):
            key, result = super().next(tick)
            return key, result.model_copy(update={"status": "failed", "reason": "out of memory", "valid_loss": None})

    stages = Stages(STUDY, tmp_path, ReferenceRuns(STUDY, Data()), Broken(0.3, (0.0,)), None, Quiet())
    with pytest.raises(EngineError, match=r"arm uniform, seed 1\): out of memory"):
        stages.comparison(arms())


def settings(**comparison):
    return StudyConfig.model_validate({**STUDY.model_dump(mode="json"), "comparison": comparison})


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        ({"max_seeds": 8}, "max_seeds=8 is for stop=anytime"),
        ({"stop": "anytime"}, "max_seeds=None should be seeds=3 or more"),
        ({"stop": "anytime", "seeds": 5, "max_seeds": 4}, "max_seeds=4 should be seeds=5 or more"),
        ({"stop": "anytime", "seeds": 2, "max_seeds": 4}, "seeds=2 should be 3 or more"),
        ({"stop": "anytime", "max_seeds": 4, "margin": 0}, "greater than 0"),
        ({"stop": "sometimes"}, "'fixed' or 'anytime'"),
    ],
)
def test_settings_that_cannot_be_are_refused(comparison, message):
    with pytest.raises(ValueError, match=message):
        settings(**comparison)


def test_a_study_with_a_fixed_number_of_seeds_may_go_on_until_it_is_decided():
    fixed, more, most = settings(), settings(stop="anytime", max_seeds=8), settings(stop="anytime", max_seeds=12)
    assert difference(changing(fixed), changing(more)) is None
    assert difference(changing(more), changing(most)) is None
    assert "comparison.max_seeds is 12 there and 8 here, and may only grow" in difference(
        changing(most), changing(more)
    )
    assert "comparison.stop is 'anytime' there and 'fixed' here" in difference(changing(more), changing(fixed))


def test_the_plan_counts_all_seeds_that_may_be_run_and_a_search_for_every_arm():
    study = settings(stop="anytime", max_seeds=8, horizons=[0.5])
    small = {"tokenizer": "bytes", "sequence_length": 16}
    rows = {
        row.stage: row.runs
        for row in plan(StudyConfig.model_validate({**study.model_dump(mode="json"), "data": small}))
    }
    assert rows == {"search": 4 * 48, "transfer": 4 * 5, "comparison": 8 * (4 + 2)}
