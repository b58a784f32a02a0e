"""Runs of programs that know nothing of rlrs, and what is said of those that go wrong."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from rlrs.records import Pruning, read_metrics
from rlrs.runs import OwnRun
from rlrs.search import Commands, EngineError
from rlrs.settings import TrainerConfig, TrainingConfig

PROGRAM = """
import os, sys, time
lr, steps, seed = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for step in range(1, steps + 1):
    print(f"step {step} loss={4 / step + abs(lr - 0.01) + seed}", flush=True)
    BODY
print(f"valid={1 + seed}")
END
"""
PATTERNS = {
    "loss": {"pattern": r"step (?P<step>\d+) loss=(\S+)"},
    "valid_loss": {"pattern": r"valid=(\S+)"},
}


@pytest.fixture
def program(tmp_path):
    def write(body="pass", end="", **trainer):
        path = tmp_path / "train.py"
        path.write_text(PROGRAM.replace("BODY", body).replace("END", end))
        command = [sys.executable, str(path), "{lr}", "{steps}", "{seed}", "{embedding.start}"]
        return TrainerConfig(**{"command": command, "components": ["embedding"], **PATTERNS, **trainer})

    return write


def run(trainer, steps=4, seed=0, lr=0.01, ratios=None):
    training = TrainingConfig(score_steps=2)
    return OwnRun(
        trainer=trainer,
        args={},
        training=training,
        steps=steps,
        seed=seed,
        lr=lr,
        final_fraction=0.1,
        ratios=ratios or {},
    )


def outcome(folder, spec, submit=None, **options):
    with Commands(folder / "runs", 1, **options) as engine:
        engine.submit("run", spec, **(submit or {}))
        key, result = engine.next()
        assert (key, engine.pending) == ("run", 0)
    return result


def test_losses_are_read_from_the_output_of_a_program(tmp_path, program):
    spec = run(program(), seed=3)
    result = outcome(tmp_path, spec)
    assert (result.status, result.steps, result.valid_loss) == ("finished", 4, 4.0)
    assert result.score == pytest.approx((4 / 3 + 4 / 4) / 2 + 3)
    lines = list(read_metrics(tmp_path / "runs" / spec.id / "metrics.jsonl"))
    assert [line.step for line in lines] == [1, 2, 3, 4, 4]


def test_losses_are_read_from_a_file_of_json_lines_that_counts_from_0(tmp_path, program):
    body = "import json; print(json.dumps({'iter': step - 1, 'tl': 1 / step, 'vl': 2.0}), "
    body += "file=open(sys.argv[5] + '/l.jsonl', 'a'))"
    trainer = program(body)
    trainer = TrainerConfig(
        command=[*trainer.command, "{folder}"],
        components=["embedding"],
        loss={"file": "l.jsonl", "key": "tl", "step": "iter", "first": 0},
        valid_loss={"file": "{folder}/l.jsonl", "key": "vl", "step": "iter", "first": 0},
    )
    result = outcome(tmp_path, run(trainer))
    assert (result.status, result.score, result.valid_loss) == ("finished", pytest.approx((1 / 3 + 1 / 4) / 2), 2.0)


def test_ratios_and_paths_stand_in_the_command():
    trainer = TrainerConfig(
        command="go --embed {embedding.start}:{embedding.end} --head {unembedding.start} --at {ratios} '{width} {{x}}'",
        components=["embedding", "unembedding"],
    )
    spec = OwnRun(**{**vars(run(trainer, ratios={"embedding": [(0.0, 5.0), (1.0, 0.5)]})), "args": {"width": 8}})
    assert spec.command("/f") == [*("go", "--embed", "5.0:0.5", "--head", "1.0", "--at", "/f/ratios.yaml", "8 {x}")]


@pytest.mark.parametrize(
    ("body", "end", "said"),
    [
        (
            "if step == 2: raise MemoryError('too big')",
            "",
            "given up after 2 attempts: its process ended with code 1; ",
        ),
        ("if step == 2: os.kill(os.getpid(), 9)", "", "its process was killed (out of memory?)"),
        ("if step == 2: os.kill(os.getpid(), 11)", "", "its process crashed (SIGSEGV)"),
        ("if step == 2: break", "", "it ended after step 2 of 4: it trained other steps than asked"),
        ("if step == 4: print('step 5 loss=1')", "", "a report at step 5 of a run of 4 steps"),
        ("if step == 2: print('step 3 loss=oops')", "", "'oops' is no number"),
    ],
)
def test_a_run_that_goes_wrong_is_one_line_with_its_folder(tmp_path, program, body, end, said):
    spec = run(program(body, end))
    result = outcome(tmp_path, spec)
    assert result.status == "failed"
    assert said in result.reason
    assert str(tmp_path / "runs" / spec.id) in result.reason
    assert "\n" not in result.reason


def test_the_last_lines_of_a_crash_are_told(tmp_path, program):
    assert "MemoryError: too big" in outcome(tmp_path, run(program("raise MemoryError('too big')"))).reason


def test_a_run_that_hangs_is_ended_at_the_time_limit_with_what_it_started(tmp_path, program):
    body = "import subprocess; subprocess.Popen(['sleep', '77.5']); time.sleep(60)"
    started = time.monotonic()
    result = outcome(tmp_path, run(program(body)), time_limit=0.5)
    assert time.monotonic() - started < 20
    assert "took more than the time limit of 0.5 s" in result.reason
    assert not any(b"77.5" in path.read_bytes() for path in command_lines())


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("loss", "trainer.loss.pattern 'nowhere=(.*)' matched no line"),
        ("valid_loss", "trainer.valid_loss.pattern 'nowhere=(.*)' matched no line"),
    ],
)
def test_a_number_that_never_appears_is_named(tmp_path, program, part, said):
    trainer = program(**{part: {"pattern": "nowhere=(.*)"}})
    assert said in outcome(tmp_path, run(trainer)).reason


def test_a_file_that_is_never_written_is_named(tmp_path, program):
    trainer = program(loss={"file": "losses.jsonl"})
    assert "losses.jsonl was not written" in outcome(tmp_path, run(trainer)).reason


def test_a_validation_loss_is_wanted_only_where_it_is_compared(tmp_path, program):
    trainer = program(valid_loss={"pattern": "nowhere=(.*)"})
    assert outcome(tmp_path, run(trainer), {"validate": False}).status == "finished"


def test_a_loss_that_is_no_number_is_divergence_and_ends_the_process(tmp_path, program):
    result = outcome(tmp_path, run(program("if step == 2: print('step 3 loss=nan', flush=True); time.sleep(60)")))
    assert (result.status, result.diverged_at, result.steps) == ("diverged", 3, 2)


def test_a_run_above_a_limit_is_ended_early(tmp_path, program):
    spec = run(program("time.sleep(60 if step == 2 else 0)"))
    prune = Pruning(rungs=((2, 1.0),), window=1)
    result = outcome(tmp_path, spec, {"validate": False, "prune": prune})
    assert (result.status, result.steps, result.rungs) == ("pruned", 2, ((2, 2.0),))
    whole = run(program())
    assert outcome(tmp_path, whole).status == "finished", "the same run to its end is another one"


def test_a_finished_run_is_not_trained_again_and_equal_runs_are_trained_once(tmp_path, program):
    spec = run(program(f"open({str(tmp_path / 'count')!r}, 'a').write('x')"))
    with Commands(tmp_path / "runs", 2) as engine:
        for key in ("one", "two"):
            engine.submit(key, spec)
        first, second = engine.next(), engine.next()
    assert {first[0], second[0]} == {"one", "two"}
    assert first[1] == second[1] == outcome(tmp_path, spec)
    assert len((tmp_path / "count").read_text()) == 4


def test_a_lost_run_is_started_again_in_its_folder(tmp_path, program):
    flag = tmp_path / "flag"
    body = f"if step == 2 and not os.path.exists({str(flag)!r}): open({str(flag)!r}, 'w'); os.kill(os.getpid(), 9)"
    result = outcome(tmp_path, run(program(body)))
    assert (result.status, result.steps) == ("finished", 4)


def test_a_program_that_was_killed_after_its_last_step_has_only_to_validate(tmp_path, program):
    flag = str(tmp_path / "flag")
    trainer = program(f"if os.path.exists({flag!r}): break", f"open({flag!r}, 'w'); os.kill(os.getpid(), 9)")
    text = (tmp_path / "train.py").read_text()
    first, last = text.index('    print(f"step'), text.index('print(f"valid')
    body = text[first:last].replace("print(", f"os.path.exists({flag!r}) or print(", 1)
    kill = f"if not os.path.exists({flag!r}): time.sleep(0.3); open({flag!r}, 'w'); os.kill(os.getpid(), 9)\n"
    (tmp_path / "train.py").write_text(text[:first] + body + kill + 'print(f"valid={1 + seed}")\n')
    result = outcome(tmp_path, run(trainer))
    assert (result.status, result.steps, result.valid_loss) == ("finished", 4, 1.0)


WRITER = """
import json, os, sys
steps, folder, mode, far = int(sys.argv[3]), sys.argv[6], sys.argv[1], os.path.exists(sys.argv[6] + "/far")
done = int(open(folder + "/saved").read()) if mode.startswith("resumes") and os.path.exists(folder + "/saved") else 0
with open(folder + "/t.jsonl", "w" if mode == "rewrites" else "a") as file:
    for step in range(done + 1, steps + 1):
        at = "x" * (50 if mode == "rewrites" and far else 3)
        file.write(json.dumps({"step": step, "loss": 4 / step, "at": at}) + "\\n")
if done < steps or mode != "resumes at the end":
    with open(folder + "/eval.jsonl", "w" if mode == "rewrites" else "a") as file:
        file.write(json.dumps({"step": steps, "val": 2.5, "at": "x" * (50 if far else 3)}) + "\\n")
open(folder + "/saved", "w").write(str(steps if mode == "resumes at the end" else steps - 2))
open(folder + "/far", "w").close()
"""


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("mode", ["rewrites", "starts over", "resumes", "resumes at the end"])
def test_files_of_a_run_that_was_killed_before_its_result_are_read_again(tmp_path, mode, read):
    (tmp_path / "train.py").write_text(WRITER)
    command = [sys.executable, str(tmp_path / "train.py"), mode, "{lr}", "{steps}", "{seed}", "{embedding.start}"]
    losses = {"loss": {"file": "t.jsonl"}, "valid_loss": {"file": "eval.jsonl", "key": "val"}}
    spec = run(TrainerConfig(command=[*command, "{folder}"], components=["embedding"], **losses), steps=6)
    first = outcome(tmp_path, spec)
    folder = tmp_path / "runs" / spec.id
    (folder / "result.json").unlink()
    if not read:
        (folder / "metrics.jsonl").unlink()
    again = outcome(tmp_path, spec)
    assert (again.status, again.score, again.valid_loss) == ("finished", first.score, 2.5)
    assert [line.loss for line in read_metrics(folder / "metrics.jsonl")][:6] == [4 / step for step in range(1, 7)]


HISTORY = """
import json, sys, time
history = []
for step in range(1, 5):
    history.append(json.dumps({"step": step, "loss": 4 / step, "val": 2}))
    with open(sys.argv[6] + "/t.jsonl", "w") as file:
        file.flush()
        time.sleep(0.12)
        print(*history, sep="\\n", file=file)
    time.sleep(0.12)
"""


def test_a_file_that_is_written_anew_after_every_step_goes_on(tmp_path):
    (tmp_path / "train.py").write_text(HISTORY)
    command = [sys.executable, str(tmp_path / "train.py"), "-", "{lr}", "{steps}", "{seed}", "{embedding.start}"]
    losses = {"loss": {"file": "t.jsonl"}, "valid_loss": {"file": "t.jsonl", "key": "val"}}
    result = outcome(tmp_path, run(TrainerConfig(command=[*command, "{folder}"], components=["embedding"], **losses)))
    assert (result.status, result.steps, result.valid_loss) == ("finished", 4, 2.0)


def test_a_line_without_a_step_names_the_setting(tmp_path, program):
    trainer = program('print(\'{"val": 2}\', file=open(sys.argv[5] + "/l.jsonl", "a"))')
    plain = {**trainer.model_dump(exclude_unset=True), "valid_loss": {"file": "l.jsonl", "key": "val"}}
    plain["command"] = [*plain["command"], "{folder}"]
    assert "for the step: trainer.valid_loss.step" in outcome(tmp_path, run(TrainerConfig(**plain))).reason


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of JAX, where another test has loaded it: of any fork
def test_a_process_that_a_killed_driver_left_is_ended_before_its_run_is_started_again(tmp_path, program):
    spec = run(program("time.sleep(0.01)"), steps=40)
    left = tmp_path / "left.pid"
    pid = os.fork()
    if pid == 0:  # another driver, killed while its run goes on in a process of its own
        engine = Commands(tmp_path / "runs", 1)
        engine.__enter__()
        engine.submit("run", run(program("time.sleep(60)"), steps=40))
        engine.next(timeout=0)
        left.write_text(str(engine._attempts[0].process.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    program("time.sleep(0.01)")
    assert outcome(tmp_path, spec).status == "finished"
    state = Path(f"/proc/{left.read_text()}/stat")
    assert not state.exists() or state.read_text().split(") ")[1].startswith("Z")


def test_three_lost_runs_and_none_that_ended_stop_the_engine(tmp_path, program):
    trainer = program("break")
    with Commands(tmp_path / "runs", 2) as engine:
        for seed in range(4):
            engine.submit(seed, run(trainer, seed=seed))
        ended: list[str] = []
        with pytest.raises(EngineError, match=r"3 runs were given up and none has ended.*other steps"):
            ended.extend(engine.next()[1].status for _ in range(4))  # several may end at one look
        assert ended in (["failed"], ["failed", "failed"])


def test_one_bad_run_among_good_ones_stops_nothing(tmp_path, program):
    trainer = program("if seed == 1: sys.exit(3)")
    with Commands(tmp_path / "runs", 2) as engine:
        for seed in range(4):
            engine.submit(seed, run(trainer, seed=seed))
        results = dict(engine.next() for _ in range(4))
    assert [results[seed].status for seed in range(4)] == ["finished", "failed", "finished", "finished"]


def test_a_program_that_cannot_be_started_is_one_line(tmp_path):
    trainer = TrainerConfig(command=["/nowhere/train", "{lr}"], components=["embedding"])
    with pytest.raises(EngineError, match=r"trainer.command: /nowhere/train cannot be started: No such file"):
        outcome(tmp_path, run(trainer))


def test_a_program_that_never_reports_is_one_line(tmp_path, program):
    trainer = TrainerConfig(command=program().command, components=["embedding"])
    reason = outcome(tmp_path, run(trainer)).reason
    assert "it ended without a result: run.finish(valid_loss=...) was not called" in reason
    assert "valid=1" in reason


KNOWING = """
import time
import rlrs
run = rlrs.current_run()
USE
for step in range(1, run.steps + 1):
    run.report(step, train_loss=1.0)
run.finish(valid_loss=2.0)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("use", "status", "said"),
    [
        ("run.seed, run.lr, run.ratios", "finished", None),
        ("run.seed, run.lr", "failed", "it did not use its ratios, so its numbers are those of another run"),
    ],
)
def test_a_script_that_reports_is_believed_or_not_and_need_not_end_in_time(tmp_path, monkeypatch, use, status, said):
    monkeypatch.setattr("rlrs.search.engines.commands.GRACE", 0.0)
    (tmp_path / "train.py").write_text(KNOWING.replace("USE", use))
    trainer = TrainerConfig(command=[sys.executable, str(tmp_path / "train.py")], components=["embedding"])
    result = outcome(tmp_path, run(trainer, ratios={"embedding": [(0.0, 2.0), (1.0, 1.0)]}))
    assert result.status == status
    assert result.valid_loss == (2.0 if said is None else None)
    assert said is None or (said in result.reason and str(tmp_path) in result.reason)


def test_a_function_may_return_the_validation_loss(tmp_path):
    body = "def train(run):\n    assert (run.seed, run.lr) == (3, 0.01)\n"
    (tmp_path / "mine.py").write_text(f"{body}    run.report(run.steps, train_loss=2.0)\n    return 1.5\n")
    trainer = TrainerConfig(call=f"{tmp_path / 'mine.py'}:train", components=["embedding"])
    result = outcome(tmp_path, run(trainer, seed=3))
    assert (result.status, result.score, result.valid_loss) == ("finished", 2.0, 1.5)


def test_a_damaged_result_is_one_line(tmp_path, program):
    spec = run(program())
    folder = tmp_path / "runs" / spec.id
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"id": ')
    with pytest.raises(EngineError, match=r"result.json: damaged: .*delete the folder to start the run again"):
        outcome(tmp_path, spec)


def test_every_run_sees_its_own_gpu_and_its_own_file(tmp_path, program, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    body = f"open({str(tmp_path)!r} + '/seen-%d' % seed, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + "
    body += "os.environ['RLRS_RUN']); time.sleep(0.1)"
    trainer = program(body)
    specs = [run(trainer, seed=seed) for seed in (0, 1)]
    with Commands(tmp_path / "runs", 2, gpus=1) as engine:
        for spec in specs:
            engine.submit(spec.seed, spec)
        engine.next()
        engine.next()
    seen = [(tmp_path / f"seen-{seed}").read_text().split(" ") for seed in (0, 1)]
    assert {device for device, _ in seen} == {"4", "5"}
    for spec, (_, path) in zip(specs, seen, strict=True):
        assert json.loads(Path(path).read_text())["seed"] == spec.seed
