"""Drift: what has changed since ratios were found, what it means, and the exit code."""

import sys

import pytest

from rlrs import Ratios
from rlrs.cli import main
from rlrs.drift import drift
from rlrs.records import RecordError
from rlrs.settings import StudyConfig
from rlrs.study.record import save_ratios
from rlrs.yaml_files import dump_yaml
from study.sample_results import STUDY, results


@pytest.fixture
def ratios(tmp_path):
    """Of the sample study, whose results have sizes of their own: made to be those of its target."""
    found = results("rlrs")
    save_ratios(STUDY, found, tmp_path)
    loaded = Ratios.load(tmp_path / "ratios.yaml")
    from rlrs.inspection import describe

    provenance = loaded.provenance
    for where, scale in (("target", STUDY.target), ("found_on", STUDY.proxy)):
        provenance[where]["parameters"] = describe(scale.model, 4096)["parameters"]
    proxy, target = (provenance[name]["parameters"]["non_embedding"] for name in ("found_on", "target"))
    tokens = STUDY.target.steps * STUDY.target.batch_size * STUDY.data.sequence_length
    provenance["horizon"]["tokens"] = round(tokens * proxy / target)
    provenance["target"]["tokens"] = tokens
    provenance["data"] = {"source": STUDY.data.source, "hash": "d" * 12, "vocab_size": STUDY.data.vocab_size}
    provenance["code"] = {}
    return loaded


def study(**changes):
    plain = STUDY.model_dump(mode="json", exclude_none=True)
    for place, value in changes.items():
        *path, name = place.split("__")
        part = plain
        for key in path:
            part = part[key]
        part[name] = value
    return StudyConfig.model_validate(plain)


def weights(ratios, *arguments, **changes):
    settings = {f"training.{n}" for n in ("warmup_fraction", "weight_decay", "component_weight_decay", "betas")}
    found = drift(ratios, study(**changes), *arguments)
    return {change.what: change.weight for change in found if change.what not in settings}


def test_the_same_study_has_no_drift(ratios):
    assert weights(ratios) == {}
    assert weights(ratios, "d" * 12) == {}


def test_what_was_found_with_the_ratios_and_is_another_in_the_study_is_a_note(ratios):
    found = {change.what: change for change in drift(ratios, STUDY)}
    assert found["training.weight_decay"].before == 0.2
    assert {change.weight for change in found.values()} == {"note"}


def test_another_width_names_the_embedding(ratios):
    found = drift(ratios, study(target__model__d_model=36))
    (width,) = (change for change in found if change.what == "model.d_model")
    assert (width.before, width.now, width.weight) == (32, 36, "confirm")
    assert "square root of the width" in width.meaning


def test_other_experts_ask_for_another_search(ratios):
    assert weights(ratios, target__model__n_experts=4)["model.n_experts"] == "search"
    dense = weights(ratios, target__model__n_experts=0)
    assert dense["component experts"] == "search"


def test_a_larger_model_and_a_longer_run_are_to_be_confirmed(ratios):
    assert weights(ratios, target__model__n_layers=8)["parameters (embeddings apart)"] == "confirm"
    assert weights(ratios, target__steps=2000) == {"tokens a parameter": "confirm"}


def test_other_data_are_to_be_confirmed(ratios):
    assert weights(ratios, "e" * 12) == {"data.hash": "confirm"}
    assert weights(ratios, data__vocab_size=512) == {"data.vocab_size": "confirm"}
    assert weights(ratios, data__source="files:*.txt") == {"data.source": "confirm"}


def test_another_version_is_a_note(ratios):
    ratios.provenance["code"] = {"rlrs": "0.0.1", "torch": "1.0"}
    assert weights(ratios) == {"code.rlrs": "note", "code.torch": "note"}


def test_a_search_that_was_stopped_comes_first(ratios):
    ratios.provenance["unfinished_search"] = "stopped after 3 of 36 runs"
    assert next(iter(weights(ratios, "e" * 12).items())) == ("search", "search")


def test_ratios_of_unknown_origin_are_one_line():
    with pytest.raises(RecordError, match="has no provenance of a study"):
        drift(Ratios.preset("paper-moe"), STUDY)


def test_the_command_ends_with_0_1_or_2(ratios, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", "drift", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    ratios.save(tmp_path / "r.yaml")
    for name, settings in (("same", study()), ("wide", study(target__model__d_model=64))):
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(settings.model_dump(mode="json", exclude_none=True)))
    code, said = call(tmp_path / "r.yaml", tmp_path / "same.yaml")
    assert code == 0
    assert said.out.endswith("nothing has changed that the ratios depend on\n")
    code, said = call(tmp_path / "r.yaml", tmp_path / "wide.yaml")
    assert code == 1
    assert "confirm  model.d_model: 32 then, 64 now" in said.out
    code, said = call("paper-moe", tmp_path / "same.yaml")
    assert (code, said.err.count("\n")) == (2, 1)


def test_training_the_target_says_first_what_the_ratios_may_not_hold_for(ratios, tmp_path, monkeypatch, capsys):
    def said_of(changes, model="target"):
        (tmp_path / "s.yaml").write_text(dump_yaml(study(**changes).model_dump(mode="json", exclude_none=True)))
        words = ["train", "s.yaml", "--model", model, "--ratios", "r.yaml", "--out", "r"]
        monkeypatch.setattr(sys, "argv", ["rlrs", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2  # there is no such text: it ends before it trains
        return [line for line in capsys.readouterr().out.splitlines() if "may not hold" in line]

    monkeypatch.chdir(tmp_path)
    ratios.save("r.yaml")
    lost = {"data__source": "files:nowhere/*.txt", "target__model__d_model": 36}
    assert [line.split(": ")[1] for line in said_of(lost)] == ["confirm  model.d_model", "confirm  data.source"]
    assert said_of(lost, "proxy") == []
