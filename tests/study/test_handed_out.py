"""ratios.yaml, `rlrs train --ratios`, `rlrs export` and the page's lines: all have what the decision was for."""

import sys
from types import SimpleNamespace

import pytest
import torch
from sample_results import DEFAULTS, POINT, STUDY, results

from rlrs.cli import main
from rlrs.cli.terminal import recipe_from
from rlrs.ratios import Ratios
from rlrs.records import Recipe
from rlrs.report.snippet import snippet
from rlrs.study.kinds import ReferenceRuns
from rlrs.study.record import save_ratios

DATA = SimpleNamespace(hash="d" * 12)


def saved(folder, winner, compared=True):
    found = results(winner, compared)
    save_ratios(STUDY, found, folder)
    return found, folder / "ratios.yaml"


@pytest.mark.parametrize("winner", ["rlrs", "constant", "embedding_only", "uniform"])
def test_the_file_holds_the_winners_ratios_and_says_what_was_decided(tmp_path, winner):
    found, path = saved(tmp_path, winner)
    ratios = Ratios.load(path)
    assert ratios == found.arms[winner].recipe.relative_rates()
    assert len(ratios) == {"rlrs": 2, "constant": 2, "embedding_only": 1, "uniform": 0}[winner]
    assert ratios.provenance["arm"] == ratios.provenance["decision"]["winner"] == winner
    assert ratios.provenance["decision"]["sentence"] == found.comparison.decision.sentence
    own = ratios.provenance.get("rlrs_ratios")
    assert own == (
        None if winner == "rlrs" else {"embedding": {"start": 8, "end": 2}, "experts": {"start": 0.5, "end": 0.25}}
    )


@pytest.mark.parametrize("winner", ["rlrs", "constant", "embedding_only", "uniform"])
@pytest.mark.parametrize("scale", ["proxy", "target"])
def test_training_with_the_file_is_the_run_of_the_comparison(tmp_path, winner, scale):
    found, path = saved(tmp_path, winner)
    arm, size = found.arms[winner], getattr(STUDY, scale)
    rate = arm.recipe.target_lr if scale == "target" else arm.recipe.lr
    compared = ReferenceRuns(STUDY, DATA).spec(size, arm.recipe, 1, lr=rate)
    recipe = recipe_from(str(path), Recipe.from_settings(STUDY.training, STUDY.search.lr))
    trained = ReferenceRuns(STUDY, DATA).spec(size, recipe, 1, lr=recipe.target_lr if scale == "target" else recipe.lr)
    assert trained == compared
    assert trained.id == compared.id


def test_a_source_of_several_globs_is_kept_as_a_list(tmp_path):
    found = results("rlrs", True)
    globs = ("files:a/*.txt", "files:b/*.txt")
    save_ratios(STUDY, found.model_copy(update={"data": {**found.data, "source": globs}}), tmp_path)
    assert Ratios.load(tmp_path / "ratios.yaml").provenance["data"]["source"] == list(globs)


def test_a_run_has_all_that_was_found_beside_the_ratios(tmp_path):
    _, path = saved(tmp_path, "rlrs")
    recipe = recipe_from(str(path), DEFAULTS)
    spec = ReferenceRuns(STUDY, DATA).spec(STUDY.target, recipe, 1, lr=recipe.target_lr)
    assert (spec.training.weight_decay, spec.training.component_weight_decay) == (0.2, {"experts": 0.05})
    assert (spec.training.betas, spec.training.warmup_fraction, spec.model.init_scale) == ((0.9, 0.98), 0.02, 0.3)
    assert (spec.lr, spec.final_fraction) == (3e-3, POINT["final_fraction"])


def test_what_was_decided_is_not_overwritten_when_the_same_study_starts_again(tmp_path):
    _, path = saved(tmp_path, "embedding_only")
    before = path.read_bytes()
    saved(tmp_path, "rlrs", compared=False)
    assert path.read_bytes() == before
    found, _ = saved(tmp_path, "rlrs")
    assert Ratios.load(path) == found.arms["rlrs"].recipe.relative_rates()


def test_before_a_comparison_the_file_has_the_ratios_that_were_searched(tmp_path):
    found, path = saved(tmp_path, "rlrs", compared=False)
    ratios = Ratios.load(path)
    assert ratios == found.arms["rlrs"].recipe.relative_rates()
    assert "decision" not in ratios.provenance
    assert "target" not in ratios.provenance


def export(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["rlrs", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert not stop.value.code, said.err
    return said.out, " ".join(said.err.split())


def test_an_export_has_the_decays_that_were_found_and_says_the_rest(tmp_path, monkeypatch, capsys):
    _, path = saved(tmp_path, "rlrs")
    text, lost = export(monkeypatch, capsys, path, "--to", "olmo-core", "--steps", 1000)
    assert "{'lr': 0.003, 'weight_decay': 0.05}" in text  # of the experts: 6e-3 times 0.5
    head = " ".join(text.replace("# ", "").split())
    assert "Found with: weight decay 0.2; experts 0.05, Adam's betas 0.9, 0.98, initialisation scale 0.3" in head
    assert "20 of warm-up" in head
    text, lost = export(monkeypatch, capsys, path, "--to", "megatron", "--steps", 1000)
    assert "experts: its own weight decay 0.05 is lost, it has 0.2 like the rest" in lost
    text, _ = export(monkeypatch, capsys, path, "--to", "nanotron", "--steps", 1000)
    assert "weight_decay: 0.2" in text


def test_a_bad_provenance_is_one_line_of_the_command_that_names_the_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "ratios.yaml"
    Ratios({"embedding": (5, 1)}, {"base": {"lr": "fast"}}).save(path)
    for arguments in (
        ("export", path, "--to", "megatron", "--steps", "10"),
        ("plot", path, "--html", tmp_path / "page.html"),
    ):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path}: provenance.base.lr: should be a number")
    assert not (tmp_path / "page.html").exists()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(30, 8)
        self.proj = torch.nn.Linear(8, 8)


def test_the_pages_lines_make_the_optimizer_of_the_comparison(tmp_path, monkeypatch):
    found, _ = saved(tmp_path, "embedding_only")
    monkeypatch.chdir(tmp_path)
    lines = snippet(found.winner.recipe, 1000, STUDY.training.model_dump()).splitlines()
    assert lines[:4] == ["import torch", "", "import rlrs", ""]
    assert "initialise matrices" in lines[-1]
    names = {"model": Net()}
    exec("\n".join(line for line in lines if not line.startswith("scheduler.step")), names)
    groups = names["optimizer"].param_groups
    assert {group["betas"] for group in groups} == {(0.9, 0.98)}
    assert {group["weight_decay"] for group in groups if not group["name"].endswith("no_decay")} == {0.2}
    assert names["scheduler"].get_last_lr()[0] == pytest.approx(3e-3 * 8 / 20)  # first of 20 warm-up steps


def test_the_lines_name_an_own_decay_another_schedule_and_another_optimizer():
    recipe = Recipe(lr=1e-3, schedule="constant", final_fraction=1.0, component_weight_decay={"experts": 0.05})
    text = snippet(recipe, 100, {"optimizer": "sgd", "momentum": 0.9})
    assert "weight_decays={'experts': 0.05}" in text
    assert "torch.optim.SGD(" in text
    assert "momentum=0.9, nesterov=True" in text
    assert 'schedule="constant")' in text
    assert "final_fraction" not in text
    assert "split_groups" in snippet(recipe, 100, {"optimizer": "muon"})
