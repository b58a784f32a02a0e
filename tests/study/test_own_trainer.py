"""Studies of the user's own trainer: by command, by function, and by a program that knows nothing of rlrs."""

import html
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from killing import run_killed, run_whole

import rlrs
from benchmarks.pairs import write
from rlrs.cli import main
from rlrs.comparison import read_results
from rlrs.ratios import Ratios
from rlrs.runs.calling import function_at
from rlrs.search import EngineError
from rlrs.settings import ConfigError, kept, study_from
from rlrs.study import resolve
from rlrs.study import run as run_study
from rlrs.study.directory import StudyError
from rlrs.study.python import _Silent
from rlrs.yaml_files import dump_yaml

NANOGPT = Path(__file__).parents[2] / "examples" / "nanogpt"
OPTIONS = "--steps {steps} --lr {lr} --seed {seed} --width {width} --layers {layers} --batch-size {batch} --log-every 1"
TINY = {
    "proxy": {"steps": 6, "set": {"width": 8, "layers": 1, "batch": 2}, "tokens": 64},
    "target": {"steps": 8, "set": {"width": 16, "layers": 1, "batch": 2}, "tokens": 64},
    "training": {"warmup_fraction": 0.2, "final_fraction": 0.1, "score_steps": 3},
    "search": {"trials": 2, "lr": 3e-3, "method": "local", "multipliers": [3], "retest": {"points": 0, "seeds": 0}},
    "transfer": {"trials": 1},
    "comparison": {"arms": ["uniform", "rlrs"], "seeds": 2, "horizons": []},
    "processes": 2,
}


def by_command():
    command = f"{sys.executable} {NANOGPT / 'train.py'} {OPTIONS}"
    return {"name": "tiny", "trainer": {"command": command, "model": f"{NANOGPT / 'call.py'}:make"}, **TINY}


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The tiny study by a function, left alone."""
    folder = tmp_path_factory.mktemp("called") / "run"
    study = rlrs.Study(f"{NANOGPT / 'call.py'}:train", model=f"{NANOGPT / 'call.py'}:make", folder=folder, **TINY)
    return study.run(), folder


def numbers(results):
    """All that was found, but for what names the runs and the seconds that they took."""
    searched = {
        arm: [(t.params, t.score, t.result.steps) for part in (a.search, a.transfer) for t in part.trials]
        for arm, a in results.arms.items()
    }
    runs = [(run.arm, run.seed, run.steps, run.valid_loss, run.score) for run in results.comparison.runs]
    return searched, runs, results.comparison.losses, results.comparison.decision


@pytest.mark.long
def test_a_study_by_command_killed_twice_has_the_numbers_of_one_by_a_function_left_alone(called, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_yaml(by_command()))
    moments = random.SystemRandom()
    kills = run_killed(path, tmp_path / "killed", [moments.uniform(2, 8), moments.uniform(2, 8)])
    assert any(kill["killed"] for kill in kills)
    killed = read_results(tmp_path / "killed" / "results.json")
    assert numbers(killed) == numbers(called[0]), kills
    assert Ratios.load(tmp_path / "killed" / "ratios.yaml") == Ratios.load(called[1] / "ratios.yaml")
    assert (tmp_path / "killed" / "report.html").stat().st_size > 100_000


def same_numbers(one, two):
    """Whether two studies ended with the same trials, losses, decision and ratios; commits may differ."""
    found = [numbers(read_results(folder / "results.json")) for folder in (one, two)]
    ratios = [Ratios.load(folder / "ratios.yaml") for folder in (one, two)]
    plain = [{**each.provenance, "code": None} for each in ratios]
    return found[0] == found[1] and dict(ratios[0]) == dict(ratios[1]) and plain[0] == plain[1]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the garbage collector
def test_a_study_by_command_on_ray_has_the_numbers_of_one_in_processes(called, tmp_path, capsys):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(by_command() | {"engine": {"kind": "ray"}}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["rlrs", "run", str(path), "--out", str(tmp_path / "ray")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert numbers(read_results(tmp_path / "ray" / "results.json")) == numbers(called[0])
    assert Ratios.load(tmp_path / "ray" / "ratios.yaml") == Ratios.load(called[1] / "ratios.yaml")


@pytest.mark.killed
def test_a_study_by_command_killed_ten_times_has_the_numbers_of_one_left_alone(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_yaml(by_command()))
    seconds = run_whole(path, tmp_path / "whole")
    seed = int.from_bytes(os.urandom(2))
    moments = random.Random(seed)
    # A tenth of the study each on average; starting again costs seconds of each life.
    kills = run_killed(path, tmp_path / "killed", [moments.uniform(0.05, 0.2) * seconds for _ in range(10)])
    same = same_numbers(tmp_path / "whole", tmp_path / "killed")
    row = {"study": "examples/nanogpt, tiny", "seconds": seconds, "seed": seed, "kills": kills, "same": same}
    write("killed_command", [row], Path(__file__).parents[2] / "experiments" / "killed")
    assert sum(kill["killed"] for kill in kills) == 10
    assert same, (seed, kills)


@pytest.mark.long
def test_a_study_of_a_function_knows_the_sizes_of_its_models(called):
    models = called[0].models
    assert {c.component for c in models.target.components} == {
        *("embedding", "position", "attention", "feed_forward", "norm", "unembedding")
    }
    # 2 x 256 x 16 tables, 32 x 16 positions, 12 x 16^2 in the block, 3 norms of 2 x 16
    assert models.target.parameters.total == 2 * 256 * 16 + 32 * 16 + 12 * 16 * 16 + 3 * 2 * 16
    assert (models.target.tokens, models.target.batch_size) == (8 * 64, None)


@pytest.mark.long
def test_a_finished_study_starts_no_process_again(called, monkeypatch):
    stamps = {p: p.stat().st_mtime_ns for p in (called[1] / "runs").rglob("*")}
    monkeypatch.setattr("rlrs.search.engines.commands.Attempt", None)
    study = rlrs.Study(f"{NANOGPT / 'call.py'}:train", model=f"{NANOGPT / 'call.py'}:make", folder=called[1], **TINY)
    assert numbers(study.run()) == numbers(called[0])
    assert {p: p.stat().st_mtime_ns for p in (called[1] / "runs").rglob("*")} == stamps


# A program that knows nothing of rlrs, takes no time, and has its optimum at lr 0.01 and embedding.start 4.

PROGRAM = """
import math, sys
lr, steps, seed, start, scale = (float(text) for text in sys.argv[1:6])
far = math.log(lr / 0.01) ** 2 / 20 + math.log(start / 4) ** 2 / 20
for step in range(1, int(steps) + 1):
    noise = ((int(seed) * 7919 + step * 104729) % 101 - 50) / 5e4
    print(f"step {step} loss={2 + far + scale / (10 + step) + noise}", flush=True)
    EXTRA
print(f"valid={2 + far + scale / (10 + steps) + int(seed) % 7 / 1e3}")
"""


@pytest.fixture
def study(tmp_path):
    def make(extra="pass", **changes):
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.replace("EXTRA", extra))
        plain = {
            "name": "theirs",
            "trainer": {
                "command": [
                    sys.executable,
                    "-S",
                    str(path),
                    "{lr}",
                    "{steps}",
                    "{seed}",
                    "{embedding.start}",
                    "{scale}",
                ],
                "components": ["embedding", "attention"],
                "loss": {"pattern": r"step (?P<step>\d+) loss=(\S+)"},
                "valid_loss": {"pattern": r"valid=(\S+)"},
            },
            "proxy": {"steps": 12, "set": {"scale": 1.0}},
            "target": {"steps": 20, "set": {"scale": 2}},
            "training": {"score_steps": 2, "warmup_fraction": 0.1},
            "search": {"trials": 12, "lr": 4e-3},
            "transfer": {"trials": 2},
            "comparison": {"arms": ["uniform", "embedding_only", "constant", "rlrs"], "seeds": 2, "horizons": [0.5]},
            "processes": 3,
        }
        for name, value in changes.items():
            plain[name] = {**plain.get(name, {}), **value} if isinstance(value, dict) else value
        return study_from(plain, "study.yaml")

    return make


@pytest.mark.long
def test_a_whole_study_of_a_program_that_knows_nothing_of_rlrs(study, tmp_path):
    found = run_study(study(), tmp_path / "run", _Silent())
    losses = {arm: loss.mean for arm, loss in found.comparison.losses.items()}
    assert losses["embedding_only"] < losses["uniform"] - 0.02, "the program's optimum has a ratio of 4"
    assert found.models.target.parameters is None
    assert found.models.target.tokens == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert found.comparison.decision.sentence.split(";")[0] in html.unescape(page)
    assert "None" not in page.partition("<script")[0]
    ratios = Ratios.load(tmp_path / "run" / "ratios.yaml")
    assert ratios.provenance["found_on"] == {"model": {"scale": 1.0}, "parameters": {}}


@pytest.mark.long
@pytest.mark.parametrize(
    "search",
    [
        {"prune": 0.2, "trials": 10},
        {"fidelity": {"steps": 0.5, "verify": 2}, "trials": 8, "retest": {"points": 0, "seeds": 0}},
        {"method": "local", "multipliers": [0.5, 2], "trials": 8, "retest": {"points": 2, "seeds": 1}},
        {"max_steps": 60},
    ],
    ids=["pruned", "short", "retested", "budget"],
)
def test_a_search_of_any_kind_is_the_same_after_it_was_begun_and_left(study, tmp_path, search):
    arms = {"arms": ["uniform", "rlrs"]}
    settings = study(search=search, comparison=arms)
    whole = run_study(settings, tmp_path / "whole", _Silent(), until="search")
    shutil.copytree(tmp_path / "whole" / "runs", tmp_path / "again" / "runs")
    for path in list((tmp_path / "again" / "runs").iterdir())[::2]:
        shutil.rmtree(path)
    (tmp_path / "again" / "study.yaml").write_bytes((tmp_path / "whole" / "study.yaml").read_bytes())
    again = run_study(settings, tmp_path / "again", _Silent(), until="search")
    assert [(t.params, t.score, t.result.status) for t in whole.arms["rlrs"].search.trials] == [
        (t.params, t.score, t.result.status) for t in again.arms["rlrs"].search.trials
    ]


@pytest.mark.long
def test_a_run_that_goes_wrong_ends_no_search_and_ends_a_comparison_with_its_reason(study, tmp_path):
    settings = study("if seed == 2 and step == 3: sys.exit('no space left')", search={"trials": 4})
    with pytest.raises(EngineError, match=r"of the comparison \(arm \w+, seed 2\).*no space left.*tries it again"):
        run_study(settings, tmp_path / "run", _Silent())
    assert (tmp_path / "run" / "ratios.yaml").exists()
    settings = study(search={"trials": 4})
    assert run_study(settings, tmp_path / "run", _Silent()).comparison is not None


def test_a_program_that_always_fails_is_one_line(study, tmp_path):
    with pytest.raises(EngineError, match=r"3 runs were given up and none has ended.*no space left"):
        run_study(study("sys.exit('no space left')"), tmp_path / "run", _Silent())


def with_command(*words, **trainer):
    return {"trainer": {"command": list(words), "components": ["embedding"], **trainer}}


NO_LOSS = {"loss": None, "valid_loss": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (with_command("true", "{lr}", "{steps}", "{seed}"), "the program never gets the ratios: give it {ratios}"),
        (with_command("true", "{lr}", "{steps}", "{ratios}"), "the program never gets seed: give it {seed}"),
        (with_command("true", "{lr}", "{with}", **NO_LOSS), "{with} stands for nothing; there are lr, "),
        (with_command("true", "{head.start}", **NO_LOSS), "{head.start} stands for nothing"),
        (with_command("true", "{embedding.middle}", **NO_LOSS), "{embedding.middle} stands for nothing"),
        (with_command("nowhere-to-be-found", **NO_LOSS), "there is no program 'nowhere-to-be-found'"),
        (with_command("true", "{lr:.3f}", **NO_LOSS), "a placeholder is a name in braces"),
        (with_command("true", "{", **NO_LOSS), "a brace of its own is written twice"),
        ({"trainer": {"command": "true 'x", **NO_LOSS}}, "cannot be split into arguments"),
        (
            {"trainer": {"call": "nowhere:train", "command": None, **NO_LOSS}},
            "trainer.call: 'nowhere:train': no module",
        ),
        ({"trainer": {"call": "x.py:train", "command": None, **NO_LOSS}}, "there is no file x.py"),
        ({"trainer": {"call": "json:train", "command": None, **NO_LOSS}}, "the module has no function 'train'"),
        ({"trainer": {"call": "train", "command": None, **NO_LOSS}}, "should be package.module:function"),
        ({"trainer": {"call": "json:dumps"}}, "should have command, call or transformers, one of them"),
        ({"trainer": {"model": "json:dumps"}}, "should have model, a function that makes it, or a list of components"),
        ({"trainer": {"model": "json:dumps", "components": []}}, "called with proxy.set raised TypeError"),
        ({"trainer": {"model": "builtins:dict", "components": []}}, "gave a dict, which is no nn.Module"),
        ({"trainer": {"valid_loss": None}}, "loss and valid_loss go together"),
        ({"trainer": {"loss": {"pattern": "loss"}}}, "should have one group in parentheses"),
        ({"trainer": {"loss": {"pattern": "("}}}, "is no regular expression"),
        ({"trainer": {"loss": {"pattern": "(x)", "file": "y"}}}, "should have pattern or file, one of the two"),
        ({"trainer": {"loss": {"file": "{nowhere}.jsonl"}}}, "stands for nothing"),
        ({"proxy": {"model": {"d_model": 32}}}, "proxy.model is for the reference trainer"),
        ({"proxy": {"set": {"lr": 1}}}, "proxy.set.lr: the study gives every run its own lr"),
        ({"target": {"set": {"width": 1}}}, "proxy and target should have the same names; scale is in one of them"),
        ({"target": {"set": None}}, "target.set is missing"),
        ({"training": {"compile": True}}, "training.compile is not for a trainer of your own"),
        ({"data": {"source": "stdlib", "vocab_size": 300}}, "data.vocab_size is not for a trainer of your own"),
        ({"engine": {"ranks": 2}}, "engine.ranks is not for a trainer of your own"),
        ({"search": {"max_flops": 1e9}}, "FLOPs of your trainer are not known"),
        ({"search": {"fidelity": {"width": 8}}}, "has no width that is known"),
        ({"search": {"space": {"batch_size": "search"}}}, "no parameter 'batch_size'"),
        ({"search": {"start": {"router": 2.0}}}, "search.start: "),
        ({"training": {"component_weight_decay": {"router": 0.1}}}, "the proxy has no 'router'"),
    ],
)
def test_what_cannot_be_is_one_line(study, tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        resolve(study(**changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["set", "tokens"])
def test_settings_of_ones_own_trainer_are_refused_for_the_reference_trainer(key):
    scale = {"model": {}, "steps": 1, "batch_size": 1}
    plain = {"name": "x", "proxy": {**scale, key: {"set": {}, "tokens": 2}[key]}, "target": scale}
    with pytest.raises(ConfigError, match=f"proxy.{key} is for a trainer of your own"):
        study_from(plain, "study.yaml")


def test_settings_of_the_trainer_may_be_given_from_python(tmp_path):
    sizes = {name: {"steps": 6, "set": {}} for name in ("proxy", "target")}
    one = {"folder": tmp_path / "run", "components": ["embedding"], **sizes}
    assert rlrs.Study("train:main", trainer={"verify": False}, **one).settings.trainer.verify is False
    assert rlrs.Study("train:main", **one).settings.trainer.verify is True
    with pytest.raises(ConfigError, match="verfy"):
        rlrs.Study("train:main", trainer={"verfy": False}, **one)


def test_a_run_starts_no_study(monkeypatch, tmp_path):
    sizes = {"steps": 1, "set": {}}
    study = rlrs.Study("json:dumps", proxy=sizes, target=sizes, components=["embedding"], folder=tmp_path / "mine")
    monkeypatch.setenv("RLRS_RUN", "x")
    with pytest.raises(StudyError, match="this process is a run of a study"):
        study.run()


def test_a_function_is_known_by_its_place(monkeypatch, tmp_path):
    sizes = {"steps": 1, "set": {}}
    study = rlrs.Study(dump_yaml, model=Path, proxy=sizes, target=sizes, folder=tmp_path / "mine")
    assert (study.settings.trainer.call, study.settings.trainer.model) == ("rlrs.yaml_files:dump_yaml", "pathlib:Path")


def test_each_files_neighbours_are_its_own(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour_of_both.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "call.py").write_text(
            "import json, neighbour_of_both\n\ndef name():\n    return neighbour_of_both.NAME\n"
        )
    first, second = (function_at(f"{tmp_path / name / 'call.py'}:name") for name in ("one", "two"))
    assert (first(), second()) == ("one", "two")


def test_a_function_that_no_other_process_can_import_is_one_line(tmp_path):
    sizes = {"steps": 1, "set": {}}
    with pytest.raises(StudyError, match="train should be a function or class at the top level of a module"):
        rlrs.Study(lambda run: 1.0, proxy=sizes, target=sizes, components=["embedding"], folder=tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "STUDY"], "has a trainer of its own, and that its own data"),
        (["ladder", "STUDY", "3"], "has a trainer of its own, whose sizes are what `set` says"),
        (["inspect", "STUDY"], "trainer.components are all that is known of its models"),
        (["train", "STUDY"], "this study has a trainer of its own"),
    ],
)
def test_what_is_for_the_reference_trainer_says_so(study, tmp_path, capsys, monkeypatch, words, said):
    code, written = command_line(study(), words, tmp_path, capsys, monkeypatch)
    assert code == 2
    assert said in written.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program.py", "study.yaml"]


def test_the_models_of_ones_own_trainer_are_inspected(study, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef make(scale):\n    return nn.Embedding(3, int(scale))\n"
    )
    trainer = {"model": "mine.py:make", "components": []}
    code, written = command_line(study(trainer=trainer), ["inspect", "STUDY"], tmp_path, capsys, monkeypatch)
    assert code == 0
    assert "embedding" in written.out


def command_line(settings, words, folder, capsys, monkeypatch):
    path = folder / "study.yaml"
    path.write_text(dump_yaml(kept(settings)))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rlrs", *(str(path) if word == "STUDY" else word for word in words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0, capsys.readouterr()


def test_a_second_driver_of_a_shared_database_finds_what_the_first_has_trained(study, tmp_path):
    arms = {"arms": ["uniform", "rlrs"]}
    settings = study(storage=f"sqlite:///{tmp_path / 'shared.db'}", comparison=arms, search={"trials": 3})
    first, second = (run_study(settings, tmp_path / name, _Silent(), until="search") for name in ("a", "b"))
    assert second.arms["rlrs"].recipe == first.arms["rlrs"].recipe
    assert not (tmp_path / "b" / "runs").exists()
