"""What the command does with bad input, and with readers that go away: one line, a code, nothing half-written."""

import os
import subprocess
import sys
import time

import pytest
import typer

from rlrs.cli import main
from rlrs.cli.terminal import resumable

STUDY = """
name: s
data: {source: "files:t*.txt", tokenizer: bytes, sequence_length: 16}
training: {eval_tokens: 256}
proxy: {model: {d_model: 8, n_layers: 1, n_heads: 2}, steps: 8, batch_size: 4}
target: {model: {d_model: 16, n_layers: 1, n_heads: 2}, steps: 8, batch_size: 4}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a study and its text, which is where the command is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(STUDY)
    for number in range(3):
        (tmp_path / f"t{number}.txt").write_text(f"words of text number {number}\n" * 200)
    return tmp_path


@pytest.fixture
def command(capsys, monkeypatch, folder):
    """Runs the command in this process: its exit code and what it wrote on standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capsys.readouterr().err

    return run


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e308", "1e400", "1e7", "many"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["ladder", "s.yaml"],
        ["plan", "s.yaml", "--gain"],
        ["plan", "s.yaml", "--noise"],
        ["train", "s.yaml", "--lr"],
        ["export", "paper-dense", "--to", "megatron", "--steps", "10", "--lr"],
    ],
)
def test_a_number_that_is_none_or_too_large_is_one_line(command, arguments, value):
    code, error = command(*arguments, value)
    assert (code, error.count("\n")) == (2, 1)
    assert "number above 0, at most 1,000,000, not" in error or "no such option: -1" in error


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e3", str(10**23), "9" * 401, "9" * 5000])
@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "paper-dense", "--to", "nanotron", "--lr", "1", "--steps"],
        ["verify", "s.yaml", "--steps"],
        ["run", "s.yaml", "--processes"],
        ["refute", "r", "--seeds"],
    ],
)
def test_a_count_that_is_none_or_too_large_is_one_line(command, arguments, value):
    code, error = command(*arguments, value)
    assert (code, error.count("\n")) == (2, 1)
    assert f"invalid value for '{arguments[-1]}'" in error


def test_a_dry_run_names_settings_that_may_not_be_meant(folder, capsys, monkeypatch):
    (folder / "s.yaml").write_text(
        STUDY.replace("{eval_tokens", "{score_steps: 9, eval_tokens")
        + "search: {max_steps: 7, retest: {points: 0, seeds: 3}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["rlrs", "run", "s.yaml", "--dry-run"])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().out.split())
    assert "search.max_steps=7 is less than one run of the proxy, proxy.steps=8" in said
    assert "training.score_steps=9 is more than proxy.steps=8" in said
    assert "search.retest.points=0 tests nothing again" in said


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["export", "-h"], ["rollout", "decide", "-h"]])
def test_version_and_short_help(command, arguments):
    assert command(*arguments) == (0, "")


@pytest.mark.parametrize("name", ["run", "search", "compare", "train", "data"])
def test_a_study_that_cannot_run_leaves_nothing(command, folder, name):
    (folder / "s.yaml").write_text(STUDY + "search: {start: paper-moe}\n")
    code, error = command(name, "s.yaml", "--out", "r")
    assert code == 2
    assert error.startswith("error: search.start: ratios name router, experts, which the proxy does not have")
    assert not (folder / "r").exists()


def test_a_dry_run_is_the_same_check(command, folder):
    assert command("run", "s.yaml", "--dry-run") == (0, "")
    (folder / "s.yaml").write_text(STUDY + "search: {space: {atention: fixed}}\n")
    code, error = command("run", "s.yaml", "--dry-run")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: search.space: no parameter 'atention'; did you mean 'attention'?")


def test_a_folder_is_given_more_and_not_less(command, folder):
    assert command("data", "s.yaml", "--out", "r")[0] == 0
    (folder / "s.yaml").write_text(STUDY + "search: {trials: 60}\nprocesses: 3\n")
    assert command("data", "s.yaml", "--out", "r")[0] == 0
    assert "trials: 60" in (folder / "r" / "study.yaml").read_text()
    (folder / "s.yaml").write_text(STUDY)
    code, error = command("data", "s.yaml", "--out", "r")
    assert code == 2
    assert "search.trials is 60 there and 48 here, and may only grow; name another folder with --out" in error


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "is empty; it should have the keys of a study: name, proxy, target"),
        (b"[]", "is a list; it should have the keys of a study"),
        (b"{", "line 1: not valid YAML"),
        (b"name: s", "proxy is missing"),
        (b"a: 1\na: 2", "line 2: the key 'a' is there twice"),
        (b"\xff", "cannot be read: not UTF-8 text"),
        (b"[" * 5000, "more than 40 levels"),
    ],
)
def test_a_damaged_study_of_a_run_folder_is_named(command, folder, damage, message):
    (folder / "r").mkdir()
    (folder / "r" / "study.yaml").write_bytes(damage)
    code, error = command("data", "s.yaml", "--out", "r")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: r/study.yaml")
    assert message in error
    assert "it is damaged, or another version's" in error


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE should be a whole number, 1 or more, not 'many'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE should be a whole number, 1 or more, not '0'"),
        (
            {"WORLD_SIZE": "2", "RANK": "x", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK should be a whole number, 0 or more, not 'x'",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK=2 should be below WORLD_SIZE=2",
        ),
    ],
)
def test_half_of_torchruns_variables_are_one_line(command, folder, monkeypatch, variables, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, error = command("train", "s.yaml", "--out", "r")
    # Only rank 0 says what all ranks meet.
    told = variables.get("RANK", "0") == "0"
    assert code == 2
    assert error == (f"error: {message}: start with torchrun\n" if told else "")
    assert not (folder / "r").exists()


def test_a_long_or_odd_value_is_shortened_and_escaped(command, folder):
    (folder / "s.yaml").write_text(STUDY + 'search: {method: "' + "x" * 100_000 + '\\e[31m\\u202e"}\n')
    code, error = command("data", "s.yaml", "--out", "r")
    assert code == 2
    assert len(error) < 1000
    assert error.isascii()
    assert "\x1b" not in error


def test_a_folder_whose_name_is_not_utf8(command, folder):
    name = os.fsdecode(b"caf\xe9")
    assert command("data", "s.yaml", "--out", name)[0] == 0
    assert (folder / name / "data" / "data.json").exists()
    code, error = command("data", f"{name}.yaml")
    assert (code, error) == (2, r"error: caf\xe9.yaml: cannot be read: No such file or directory" + "\n")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["export", "paper-dense", "--to", "nanotron", *["--steps", "9", "--lr", "1"]]]
)
def test_a_reader_that_is_gone_ends_the_command_without_a_word(folder, arguments):
    """As other programs end: 128 + SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "rlrs.cli", *arguments], stdout=write, stderr=subprocess.PIPE, timeout=120
    )
    os.close(write)
    assert done.returncode == 141
    assert all(line.startswith(b"lost: ") for line in done.stderr.splitlines())  # what an export says beside


def test_letters_that_an_output_cannot_write_are_escaped(folder):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "rlrs.cli", "ladder", "s.yaml", "2"], capture_output=True, timeout=120, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"d_model" in done.stdout


def test_a_dry_run_says_which_text_is_missing(command, folder):
    (folder / "s.yaml").write_text(STUDY.replace("files:t*.txt", "files:korpus/*.txt"))
    code, error = command("run", "s.yaml", "--dry-run")
    assert code == 2
    assert error.startswith("error: data")
    assert "'files:korpus/*.txt' matches no file" in error
    assert error.count("\n") == 1


def test_a_file_whose_study_decided_against_ratios_says_so(command, folder):
    (folder / "r.yaml").write_text("schema: 1\nratios: {}\nprovenance: {arm: uniform, base: {lr: 0.01}}\n")
    code, error = command("export", "r.yaml", "--to", "megatron", "--steps", "9")
    assert not code
    assert error.startswith("note: r.yaml has no ratios: its study decided for uniform, one rate for all\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "rlrs run: missing argument 'STUDY.yaml' (see rlrs run --help)"),
        (["rum"], "rlrs: no such command 'rum'; did you mean 'run'? (see rlrs --help)"),
        (["audit", "shw"], "rlrs audit: no such command 'shw'; did you mean 'show'? (see rlrs audit --help)"),
        (["run", "s.yaml", "--proceses", "3"], "rlrs run: no such option: --proceses (Possible options: "),
        (["train", "s.yaml", "--model", "big"], "rlrs train: invalid value for '--model': 'big' is not one of 'proxy'"),
        (["run", "s.yaml", "--address", "a:1"], "rlrs run: --address is for --engine ray (see rlrs run --help)"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_one_line_too(command, arguments, message):
    code, error = command(*arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(f"error: {message}")


def test_the_command_alone_prints_its_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rlrs"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert (stop.value.code, said.err) == (2, "")
    assert "inspect" in said.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("storage: foo", "storage: should be a database URL"),
        ("storage: ''", "storage: should be a database URL"),
        ("storage: oops://x/y", "storage: no kind of database is called 'oops'"),
        ("comparison: {horizons: [0.5, 0.5]}", "comparison: horizons=[0.5, 0.5] names a length twice"),
        ("comparison: {horizons: [0.001]}", "comparison.horizons: 0.001 of target.steps=8 is no step"),
        ("comparison: {horizons: [0.5, 0.51]}", "comparison.horizons: 0.5 of target.steps=8 is 4 as another's"),
        (
            "search: {method: optuna.samplers.GridSampler, options: {search_space: {x: [1]}}}",
            "search.method: optuna.samplers.GridSampler cannot propose points of this space",
        ),
        ("search: {space: {norm.start: 1.0}}", "search.space.norm.start: norm has no end, and a ratio needs both"),
    ],
)
def test_a_dry_run_finds_what_a_run_would_end_with(command, folder, more, message):
    (folder / "s.yaml").write_text(f"{STUDY}{more}\n")
    for way in (["--dry-run"], ["--out", "r"]):
        code, error = command("run", "s.yaml", *way)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error
    assert not (folder / "r").exists()


def test_a_folder_of_tokens_that_cannot_be_and_a_name_that_is_too_long(command, folder):
    (folder / "file").write_text("")
    (folder / "s.yaml").write_text(STUDY.replace("data: {", "data: {folder: file/tokens, "))
    assert "data.folder: 'file/tokens'" in command("run", "s.yaml", "--dry-run")[1]
    (folder / "s.yaml").write_text(STUDY.replace("name: s", f"name: {'s' * 300}"))
    assert "name: string should have at most 100 characters" in command("run", "s.yaml", "--dry-run")[1]
    (folder / "s.yaml").write_text(STUDY.replace("eval_tokens: 256", "eval_tokens: 256, warmup_fraction: 1.0"))
    assert "training.warmup_fraction: should be below 1" in command("run", "s.yaml", "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "s.yaml", "--processes", "0"], "'--processes': should be at least 1, not '0'"),
        (["run", "s.yaml", "--processes", "two"], "'--processes': should be a whole number, not 'two'"),
        (["dashboard", "r", "--port", "70000"], "'--port': should be at most 65,535, not '70000'"),
        (
            ["export", "paper-dense", "--to", "megatron", "--steps", "9", "--final-fraction", "1.5"],
            "'--final-fraction': should be at most 1, not '1.5'",
        ),
        (["run", "s.yaml", "--engine", "slurm"], "'--engine': 'slurm' is not one of 'processes', 'ray'"),
    ],
)
def test_an_option_that_cannot_be_is_one_line_with_what_could(command, arguments, message):
    code, error = command(*arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert f"invalid value for {message} (see rlrs {arguments[0]} --help)" in error


@pytest.mark.parametrize("name", ["--seed", "--steps"])
def test_counts_beyond_any_run_are_refused(command, folder, name):
    code, error = command("train", "s.yaml", name, "9" * 23, "--out", "r")
    assert code == 2
    assert f"error: {name[2:]} should be a whole number from" in error


def test_a_link_to_a_folder_that_is_not_there_is_named(command, folder):
    (folder / "link").symlink_to("nowhere")
    code, error = command("run", "s.yaml", "--out", "link")
    assert (code, error) == (2, "error: link: a link to nowhere, which is not there; make that folder first\n")


def test_an_interrupt_that_python_drops_ends_the_command_all_the_same(capsys):
    class Dropping:
        def __del__(self):
            raise KeyboardInterrupt

    hook = sys.unraisablehook

    def drop():
        with resumable():
            Dropping()
            time.sleep(20)

    with pytest.raises(typer.Exit) as ended:
        drop()
    assert ended.value.exit_code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert sys.unraisablehook is hook
