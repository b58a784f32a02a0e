"""The arm `mup_width`: one rate on the proxy, carried to the target's width by muP's rule."""

import pytest

from rlrs.cli.study_view import StudyView
from rlrs.comparison import read_results
from rlrs.records import write_results
from rlrs.report import write_report, write_summary
from rlrs.settings import StudyConfig
from rlrs.study import run

PLAIN = {
    "name": "tiny",
    "data": {"vocab_size": 300, "sequence_length": 16, "max_bytes": 200000},
    "training": {"score_steps": 3, "eval_tokens": 256, "checkpoint_every": 50, "log_every": 5, "evaluations": 1},
    "proxy": {"model": {"d_model": 8, "n_layers": 1, "n_heads": 2}, "steps": 8, "batch_size": 4},
    "target": {"model": {"d_model": 24, "n_layers": 1, "n_heads": 6}, "steps": 10, "batch_size": 4},
    "search": {"trials": 4, "lr": 8e-3, "retest": {"points": 0}},
    "transfer": {"trials": 1},
    "comparison": {"arms": ["uniform", "mup_width", "rlrs"], "seeds": 2, "horizons": [0.5]},
    "processes": 1,
}


@pytest.mark.long
def test_its_proxy_has_one_rate_and_on_the_target_matrices_have_a_third_of_it_at_three_times_the_width(tmp_path):
    results = run(StudyConfig.model_validate(PLAIN), tmp_path, StudyView(quiet=True))
    uniform, arm = results.arms["uniform"], results.arms["mup_width"]
    assert set(arm.search.best) == set(uniform.search.best) == {"lr", "final_fraction"}
    assert len(arm.search.trials) == len(results.arms["rlrs"].search.trials)
    third = ((0.0, 0.333333), (1.0, 0.333333))
    assert arm.recipe.ratios == {"attention": third, "feed_forward": third, "unembedding": third}
    assert uniform.recipe.ratios == {}
    assert results.arms["rlrs"].recipe.ratios["attention"] != third
    runs = {one.id: one for one in results.comparison.runs if one.arm == "mup_width"}
    assert runs
    assert all('"attention"' in (tmp_path / "runs" / id_ / "run.json").read_text() for id_ in runs)
    won = results.comparison.decision.model_copy(update={"winner": "mup_width"})
    changed = results.comparison.model_copy(update={"decision": won})
    write_results(tmp_path / "results.json", results.model_copy(update={"comparison": changed}))
    assert read_results(tmp_path / "results.json").winner.arm == "mup_width"
    assert "muP" in write_report(tmp_path, "ja").read_text()
    assert "as muP does" in write_summary([tmp_path], "markdown")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ladder": {"sizes": [0.1, 0.3, 1], "horizons": [4, 8]}}, "mup_width has ratios on the target alone"),
        (
            {
                "trainer": {"command": "true", "components": ["embedding", "attention"]},
                **{key: {"set": {}, "steps": 1} for key in ("proxy", "target")},
                **{key: {} for key in ("data", "training")},
                "comparison": {"arms": ["uniform", "mup_width", "rlrs"]},
            },
            "trainer.width is missing: the arm mup_width needs to know which value of `set` it is",
        ),
    ],
)
def test_a_study_that_cannot_have_it_says_why(changes, said):
    with pytest.raises(ValueError, match=said):
        StudyConfig.model_validate({**PLAIN, **changes})
