import json
import random
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from killing import run_killed, same_end

from rlrs.cli import main
from rlrs.comparison import read_results
from rlrs.ratios import Ratios

STUDY = """
name: tiny
data: {vocab_size: 300, sequence_length: 16, max_bytes: 200000}
training: {score_steps: 5, eval_tokens: 512, checkpoint_every: 5, log_every: 5, evaluations: 3}
proxy: {model: {d_model: 16, n_layers: 1, n_heads: 2, n_experts: 2}, steps: 20, batch_size: 4}
target: {model: {d_model: 32, n_layers: 2, n_heads: 2, n_experts: 4}, steps: 30, batch_size: 4}
search: {trials: 8, multipliers: [0.5, 2], lr: 8e-3}
transfer: {trials: 3}
comparison: {arms: [uniform, embedding_only, constant, rlrs], seeds: 2, horizons: [0.5]}
processes: 2
"""


def rlrs(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "rlrs.cli", *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture
def command(capsys, monkeypatch):
    """The same command in this process: a second less each, for what trains nothing."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        code = stop.value.code or 0
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    path = folder / "tiny.yaml"
    path.write_text(STUDY)
    done = rlrs("run", path, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return path, folder / "run", done


def results(folder):
    return read_results(folder / "results.json")


def test_a_study_ends_with_ratios_results_and_a_page(tiny):
    _, folder, done = tiny
    ratios = Ratios.load(folder / "ratios.yaml")
    got = results(folder)
    assert ratios == got.winner.recipe.relative_rates()
    assert set(got.arms["rlrs"].recipe.ratios) == {"embedding", "attention", "experts", "router", "unembedding"}
    assert ratios.provenance["search"]["runs"] == 8
    assert ratios.provenance["arm"] == ratios.provenance["decision"]["winner"] == got.comparison.decision.winner
    assert (folder / "report.html").stat().st_size > 100_000
    assert got.comparison.decision.sentence in " ".join(done.stdout.split())


def test_every_arm_has_the_same_budget_and_the_baseline_is_tuned_too(tiny):
    arms = results(tiny[1]).arms
    searches = [arm.search for arm in arms.values()]
    assert {search.budget for search in searches} == {8}
    assert {arm.transfer.budget for arm in arms.values()} == {3}
    assert all(len(search.trials) <= search.budget for search in searches)
    assert set(arms["uniform"].search.best) == {"lr", "final_fraction"}
    assert set(arms["embedding_only"].search.best) >= {"embedding.start", "embedding.end"}


def test_the_constant_arm_searches_ratios_that_do_not_change_with_a_budget_of_its_own(tiny):
    arms = results(tiny[1]).arms
    held, moving = (arms[arm].recipe.relative_rates() for arm in ("constant", "rlrs"))
    assert set(held) == set(moving)
    assert all(ratio.end == ratio.start for ratio in held.values())
    trials = [trial.params for trial in arms["constant"].search.trials]
    assert len(trials) == 8
    assert all(point[f"{c}.end"] == point[f"{c}.start"] for point in trials for c in held)
    assert len({point["embedding.start"] for point in trials}) > 1


def test_seeds_are_paired_and_none_was_searched_on(tiny):
    comparison = results(tiny[1]).comparison
    assert comparison.seeds == (1, 2)  # the search's seed is 0
    full = {(run.arm, run.seed) for run in comparison.runs if run.horizon == 1.0}
    assert full == {(arm, seed) for arm in ("uniform", "embedding_only", "constant", "rlrs") for seed in (1, 2)}


def test_the_same_command_again_trains_nothing_and_changes_nothing(command, tiny):
    path, folder, _ = tiny
    before = (folder / "ratios.yaml").read_bytes(), results(folder).comparison
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}
    done = command("run", path, "--out", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"finished already, nothing to do: its page is {folder / 'report.html'}",
        f"to extend it, raise trials or arms in {path} and run it again; for more seeds, now that these were looked "
        "at, set comparison.stop: anytime and max_seeds (docs/search.md, Extend a search)",
    ]
    assert ((folder / "ratios.yaml").read_bytes(), results(folder).comparison) == before
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()} == stamps


@pytest.mark.long
@pytest.mark.parametrize("name", ["ratios.yaml", "results.json", "report.html"])
def test_a_finished_study_makes_again_what_was_lost_or_changed(command, tiny, tmp_path, name):
    path, folder, _ = tiny
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    done = command("run", path, "--out", copy)
    assert done.returncode == 0, done.stderr
    assert "finished already" not in done.stdout
    assert ("comparison" in done.stderr) == (name != "report.html")
    assert same_end(folder, copy)
    assert (copy / "report.html").exists()
    assert "finished already" in command("run", path, "--out", copy).stdout


@pytest.mark.long
def test_a_finished_study_trains_a_run_again_whose_files_are_gone(command, tiny, tmp_path):
    path, folder, _ = tiny
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    one, other = (copy / "runs" / run.id for run in results(copy).comparison.runs[:2])
    shutil.rmtree(one)
    (other / "metrics.jsonl").unlink()
    done = command("run", path, "--out", copy)
    assert done.returncode == 0, done.stderr
    assert "finished already" not in done.stdout
    assert (one / "metrics.jsonl").exists()
    assert (other / "metrics.jsonl").exists()
    assert same_end(folder, copy)


@pytest.mark.long
def test_a_result_that_was_changed_is_not_believed(command, tiny, tmp_path):
    path, folder, _ = tiny
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "results.json").unlink()
    result = copy / "runs" / results(folder).comparison.runs[0].id / "result.json"
    plain = json.loads(result.read_text())
    result.write_text(json.dumps({**plain, "valid_loss": 3.0}))
    assert f"{result}: does not go with its checksum" in one_line_error(command("run", path, "--out", copy))
    result.write_text(json.dumps({name: value for name, value in plain.items() if name != "checksum"}))
    assert command("run", path, "--out", copy).returncode == 0  # of an older version
    assert same_end(folder, copy)


@pytest.mark.long
def test_seeds_that_are_added_after_a_look_are_said_to_be(command, tiny, tmp_path):
    folder = tiny[1]
    copy, more = tmp_path / "copy", tmp_path / "more.yaml"
    shutil.copytree(folder, copy)
    seeds = len(results(folder).comparison.seeds)
    more.write_text(re.sub(r"seeds: \d+", f"seeds: {seeds + 1}", STUDY))
    assert command("run", more, "--out", copy).returncode == 0
    said = [note for note in results(copy).comparison.decision.notes if note.startswith("Seeds were added after the")]
    assert len(said) == 1
    assert f"on {seeds} had been looked at" in said[0]
    for name in ("ratios.yaml", "report.html"):
        assert "Seeds were added after" in " ".join((copy / name).read_text().split())
    (copy / "ratios.yaml").unlink()  # written anew, it is still said
    assert command("run", more, "--out", copy).returncode == 0
    assert said[0] in results(copy).comparison.decision.notes


@pytest.mark.long
def test_neither_ray_nor_the_number_of_processes_changes_what_is_found(tiny, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    path, folder, _ = tiny
    done = rlrs("search", path, "--out", tmp_path / "other", "--engine", "ray", "--processes", 1)
    assert done.returncode == 0, done.stderr
    here, there = results(folder).arms["rlrs"], Ratios.load(tmp_path / "other" / "ratios.yaml")
    assert there == here.recipe.relative_rates()
    found = {name: there.provenance["search"][name] for name in ("runs", "steps", "score")}
    assert found == {"runs": len(here.search.trials), "steps": here.search.steps, "score": here.search.score}


@pytest.mark.long
def test_killed_at_a_random_moment_it_ends_with_the_same_ratios_and_losses(tiny, tmp_path):
    path, folder, _ = tiny
    kills = run_killed(path, tmp_path / "killed", [random.SystemRandom().uniform(3, 10)])
    assert any(kill["killed"] for kill in kills)
    assert same_end(folder, tmp_path / "killed"), kills


def test_a_dry_run_prints_the_plan_and_writes_nothing(command, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("run", tiny[0], "--dry-run")
    assert done.returncode == 0
    assert "search" in done.stdout
    assert "32" in done.stdout  # four arms of eight runs
    assert "With 2 paired seeds a difference of 11.5 times the noise" in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


def one_line_error(done):
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_run_directory_of_another_study_is_refused(command, tiny, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(STUDY.replace("trials: 8", "trials: 7"))
    assert "belongs to another study: search.trials is 8 there and 7 here, and may only grow" in one_line_error(
        command("run", other, "--out", tiny[1])
    )


def test_a_folder_with_other_files_is_no_run_directory(command, tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds files but no study.yaml" in one_line_error(command("run", tiny[0], "--out", tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_database_that_is_none_and_a_damaged_one_are_refused(command, tiny, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny[1], copy)
    (copy / "trials.db").write_text("not a database, but more than sixteen bytes")
    (copy / "results.json").unlink()  # a study that has ended needs no database
    assert "trials.db: not a SQLite database" in one_line_error(command("run", tiny[0], "--out", copy))
    whole = (tiny[1] / "trials.db").read_bytes()
    (copy / "trials.db").write_bytes(whole[:3000])
    assert "trials.db: the database of trials cannot be used" in one_line_error(command("run", tiny[0], "--out", copy))


def test_a_truncated_checkpoint_is_refused_by_name(command, tiny, tmp_path):
    arguments = ("train", tiny[0], "--model", "target", "--out", tmp_path / "run")
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    (folder / "result.json").unlink()
    _, newest = sorted((folder / "checkpoints").iterdir())
    weights = newest / "rank-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"{newest.name}: rank-0.safetensors is truncated or damaged" in " ".join(done.stderr.split())
    (folder / "result.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "rank-0.safetensors").unlink()
    assert "rank-0.safetensors is missing" in one_line_error(command(*arguments))


def test_training_with_found_ratios_takes_their_base_rate(command, tiny, tmp_path):
    ratios = tiny[1] / "ratios.yaml"
    done = command("train", tiny[0], "--model", "target", "--ratios", ratios, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    spec = json.loads((folder / "run.json").read_text())
    recipe = results(tiny[1]).winner.recipe
    assert (spec["lr"], spec["final_fraction"]) == (recipe.target_lr, recipe.final_fraction)


def test_a_rate_that_cannot_be_is_one_line(command, tiny, tmp_path):
    done = command("train", tiny[0], "--lr", "0", "--out", tmp_path / "run")
    assert "a rate should be a number above 0, at most 1,000,000, not '0'" in one_line_error(done)
    for rate in ("nan", "-1", "fast"):
        done = command("train", tiny[0], "--lr", rate, "--out", tmp_path / "run")
        assert "error: rlrs train: invalid value for '--lr'" in one_line_error(done)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trials: 8", "trails: 8"), "unknown key 'search.trails'; did you mean 'trials'?"),
        (("lr: 8e-3", "lr: -1"), "search.lr: should be above 0, not -1"),
        (("lr: 8e-3", "lr: fast"), "search.lr: should be a number, not 'fast'"),
        (("vocab_size: 300", "vocab_size: 300, source: 'files:nothing/*.txt'"), "nothing/*.txt"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_writes_nothing(command, tmp_path, change, message):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace(*change))
    assert message in one_line_error(command("run", path, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_width_of_cheap_runs_that_the_proxy_cannot_have_is_refused(command, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("trials: 8", "trials: 8, fidelity: {width: 12}"))
    message = "search.fidelity: width should be a multiple of the head size 8, not 12"
    assert message in one_line_error(command("run", path, "--out", tmp_path / "run"))


def test_an_empty_file_is_refused(command, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    path = tmp_path / "study.yaml"
    settings = f"data: {{source: 'files:{tmp_path}/*.txt', vocab_size: 300, sequence_length: 16}}"
    path.write_text("\n".join(settings if line.startswith("data:") else line for line in STUDY.splitlines()))
    assert "empty.txt: is empty" in one_line_error(command("run", path, "--out", tmp_path / "run"))


def test_two_processes_on_one_study_are_refused(command, tiny):
    import fcntl

    with (tiny[1] / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is at work" in one_line_error(command("run", tiny[0], "--out", tiny[1]))


@pytest.mark.long
def test_the_stages_have_commands_of_their_own(command, tiny, tmp_path):
    path, folder, _ = tiny
    shutil.copytree(folder, tmp_path / "run")  # trained already: what is tested is what each command writes
    for name in ("ratios.yaml", "results.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    done = command("search", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "results.json").exists()
    found = results(folder).arms["rlrs"].recipe.relative_rates()
    assert Ratios.load(tmp_path / "run" / "ratios.yaml") == found  # nothing is decided yet
    done = command("compare", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "report.html").exists()
    done = command("report", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert same_end(folder, tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()


def test_plot_writes_a_page(command, tiny, tmp_path):
    done = command("plot", tiny[1] / "ratios.yaml", "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "<h1>tiny</h1>" in (tmp_path / "page.html").read_text()


def test_export_takes_base_rate_and_schedule_from_the_file_and_says_what_is_lost(command, tiny, tmp_path):
    file = tmp_path / "overrides.py"
    done = command(
        *("export", tiny[1] / "ratios.yaml", "--to", "megatron", "--steps", 1000, "--model", tiny[0], "--out", file)
    )
    assert done.returncode == 0, done.stderr
    assert "ParamGroupOverride" in file.read_text()
    assert "lost: " in done.stderr


def test_export_of_a_preset_needs_a_base_rate(command):
    done = command("export", "paper-moe", "--to", "megatron", "--steps", 1000)
    assert done.returncode == 2
    assert "give --lr" in done.stderr
    assert "no preset" not in done.stderr
    done = command("export", "paper-moe", "--to", "megatrom", "--steps", 1000, "--lr", 1e-3)
    assert "megatrom" in one_line_error(done)


def test_inspect_counts_every_parameter_once(command, tiny):
    done = command("inspect", tiny[0], "--ratios", "paper-moe")
    assert done.returncode == 0, done.stderr
    assert "router" in done.stdout
    assert "each once" in done.stdout
    assert "which this model does not have" not in done.stdout
    done = command("inspect", tiny[0], "--ratios", "paper-dense")
    assert "the ratios also name feed_forward, which this model does not have" in " ".join(done.stdout.split())


def test_the_recorded_study_is_the_one_that_was_given(tiny):
    recorded = yaml.safe_load((tiny[1] / "study.yaml").read_text())
    assert recorded["search"]["trials"] == 8
