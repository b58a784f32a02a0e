"""What a search found, as one record: everything of a point, from and to a ratios.yaml."""

from types import SimpleNamespace

import pytest

from rlrs.ratios import Ratios
from rlrs.records import ArmResult, ArmSearch, Recipe, RecordError, RunResult, SearchResult, Trial
from rlrs.settings import TrainingConfig

POINT = {
    "lr": 6e-3,
    "final_fraction": 0.2,
    "embedding.start": 8.0,
    "embedding.end": 2.0,
    "experts.start": 0.5,
    "experts.25%": 0.75,
    "experts.end": 0.25,
    "weight_decay": 0.2,
    "experts.weight_decay": 0.05,
    "warmup_fraction": 0.02,
    "beta2": 0.98,
    "init_scale": 0.3,
    "batch_size": 16.0,
}
TRAINING = TrainingConfig(component_weight_decay={"norm": 0.01, "experts": 0.3})
DEFAULTS = Recipe.from_settings(TRAINING, 4e-3)


def test_a_recipe_has_everything_that_a_point_names_and_the_studys_settings_for_the_rest():
    recipe = DEFAULTS.at(POINT)
    assert (recipe.lr, recipe.final_fraction, recipe.warmup_fraction, recipe.weight_decay) == (6e-3, 0.2, 0.02, 0.2)
    assert recipe.component_weight_decay == {"norm": 0.01, "experts": 0.05}
    assert recipe.betas == (0.9, 0.98)
    assert recipe.init_scale == 0.3
    assert recipe.ratios["experts"] == ((0.0, 0.5), (0.25, 0.75), (1.0, 0.25))
    assert DEFAULTS.at({}) == DEFAULTS


def test_training_has_what_was_found_and_what_was_not_stays_the_studys():
    training = DEFAULTS.at(POINT).training(TRAINING)
    changed = {"weight_decay", "component_weight_decay", "warmup_fraction", "betas"}
    before, after = TRAINING.model_dump(), training.model_dump()
    assert {name for name in before if before[name] != after[name]} == changed
    assert DEFAULTS.training(TRAINING) == TRAINING


def test_a_ratio_of_one_is_left_out_of_a_run():
    assert DEFAULTS.at({"router.start": 1.0, "router.end": 1.0, "norm.start": 2.0, "norm.end": 1.0}).run_ratios() == {
        "norm": [(0.0, 2.0), (1.0, 1.0)]
    }


def test_a_recipe_comes_back_from_the_provenance_that_it_is_written_to():
    recipe = DEFAULTS.at(POINT).model_copy(update={"target_lr": 3e-3})
    ratios = Ratios(recipe.relative_rates(), {"base": recipe.base_settings(), "target": {"lr": 3e-3}})
    assert Recipe.from_ratios(ratios, Recipe(lr=1.0)) == recipe


def test_what_a_file_does_not_say_is_the_defaults():
    recipe = Recipe.from_ratios(Ratios({"embedding": (5, 1)}, {"preset": "x"}), DEFAULTS)
    assert recipe == DEFAULTS.model_copy(update={"ratios": {"embedding": ((0.0, 5.0), (1.0, 1.0))}})


def test_files_of_0_1_have_betas_and_own_decays_by_the_names_of_a_point():
    base = {"lr": 8e-3, "final_fraction": 0.1, "warmup_fraction": 0.02, "schedule": "linear", "weight_decay": 0.3}
    base |= {"beta1": 0.8, "experts.weight_decay": 0.7, "init_scale": 0.2}
    recipe = Recipe.from_ratios(Ratios({}, {"base": base}), DEFAULTS)
    assert (recipe.betas, recipe.init_scale, recipe.schedule) == ((0.8, 0.95), 0.2, "linear")
    assert recipe.component_weight_decay == {"norm": 0.01, "experts": 0.7}


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"base": "x"}, "provenance.base: should be a mapping, not 'x'"),
        ({"base": {"lr": "fast"}}, "provenance.base.lr: should be a number"),
        ({"base": {"lr": 0}}, "provenance.base.lr: should be above 0"),
        ({"base": {"lr": 1e-3, "weight_decai": 1}}, "provenance.base.weight_decai: not a setting"),
        ({"base": {"betas": [0.9]}}, "provenance.base.betas"),
        ({"base": {"betas": [0.9, 2]}}, "provenance.base.betas: should be two numbers from 0 to 1"),
        ({"base": {"experts.weight_decay": -1}}, "provenance.base.weight decay of experts should be 0 or more"),
        ({"target": [1]}, r"provenance.target: should be a mapping, not \[1\]"),
        ({"target": {"lr": float("nan")}}, "provenance.base.target_lr: should be a finite number"),
    ],
)
def test_a_provenance_that_cannot_be_used_is_one_line(provenance, message):
    with pytest.raises(RecordError, match=message):
        Recipe.from_ratios(Ratios({}, provenance), DEFAULTS)


def test_a_constant_schedule_ends_at_its_peak():
    training = TrainingConfig(schedule="constant")
    recipe = Recipe.from_settings(training, 1e-3)
    assert recipe.base_schedule(100).alpha == 1.0
    file = Recipe.from_ratios(Ratios({}, {"base": {"schedule": "constant"}}), DEFAULTS)
    assert (file.final_fraction, file.training(TRAINING).final_fraction) == (1.0, 1.0)


def test_what_a_recipe_changes_in_a_study_is_said():
    said = DEFAULTS.at({"weight_decay": 0.2, "beta2": 0.98}).changes(TRAINING)
    assert said == ["weight decay 0.2 (the study: 0.1)", "betas 0.9, 0.98 (the study: 0.9, 0.95)"]
    found = DEFAULTS.at({"init_scale": 0.3})
    assert found.changes(TRAINING, SimpleNamespace(init_scale=0.15)) == ["init scale 0.3 (the study: 0.15)"]
    assert found.changes(TRAINING, SimpleNamespace()) == ["init scale 0.3 is not used: the model initialises itself"]


def trial(number, score=None, **more):
    status = "finished" if score is not None else "diverged"
    result = RunResult(status=status, steps=10, score=score, valid_loss=None, tokens=1, seconds=0.0)
    return Trial(
        params={"lr": 1e-3 * (number + 1)}, move="", number=number, batch=number, run="", result=result, **more
    )


def searched(*trials, best=0):
    result = SearchResult(best=trials[best].params, score=trials[best].score, reason="", rounds=1, trials=tuple(trials))
    return ArmSearch.from_result(result, budget=8)


def test_a_transfer_gives_the_targets_rate_and_changes_nothing_else():
    before = ArmResult.from_point("rlrs", POINT, DEFAULTS, searched(trial(0, 3.0)))
    after = before.with_transfer(searched(trial(0, 3.0), trial(1, 2.9), best=1))
    assert before.recipe.target_lr is None
    assert after.recipe == before.recipe.model_copy(update={"target_lr": 2e-3})
    with pytest.raises(ValueError, match="is not the base rate that the transfer ended with"):
        ArmResult(arm="rlrs", recipe=before.recipe, search=before.search, transfer=after.transfer)


def test_improved_are_the_whole_measured_trials_that_were_the_best_so_far():
    search = searched(trial(0, 3.0), trial(1, 2.0, steps=5), trial(2), trial(3, 3.1), trial(4, 2.9))
    assert search.improved == {0, 4}
    assert search.steps == 50
    assert search.best_trial == search.trials[0]


def test_trials_are_numbered_in_order():
    with pytest.raises(ValueError, match="numbered in order: 1 comes after 1"):
        searched(trial(1, 3.0), trial(1, 3.1))
