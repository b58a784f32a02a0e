import json
import signal
import subprocess
import sys

import pytest

from rlrs.cli import main
from rlrs.comparison import read_results
from rlrs.ratios import Ratios
from rlrs.records import RecordError, read_certificate
from rlrs.report import write_certificate_page
from rlrs.settings import ConfigError, StudyConfig, load_study
from rlrs.study import plan, resolve
from rlrs.study.ladder import plan_ladder

STUDY = """
name: tiny
data: {vocab_size: 300, sequence_length: 16, max_bytes: 200000}
training: {score_steps: 4, eval_tokens: 256, checkpoint_every: 50, log_every: 5, evaluations: 1}
proxy: {model: {d_model: 12, n_layers: 1, n_heads: 3}, steps: 10, batch_size: 4}
target: {model: {d_model: 24, n_layers: 1, n_heads: 6}, steps: 14, batch_size: 4}
ladder: {sizes: [{d_model: 4}, {d_model: 8}, {d_model: 12}], horizons: [5, 10], trials: 8, share: 100}
search: {trials: 10, lr: 8e-3, space: {attention: exclude, feed_forward: exclude}, retest: {points: 0}}
transfer: {trials: 2, mode: law}
comparison: {arms: [uniform, rlrs], seeds: 2, horizons: [0.5]}
processes: 1
"""


def rlrs(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rlrs.cli", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


def forecast(path):
    """All that a certificate says but for where and when it was made."""
    plain = read_certificate(path).to_plain()
    return {name: plain[name] for name in ("ladder", "rungs", "arms", "gains", "saved", "sentence", "refuted_by")}


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stop.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A certificate before any run of the target, then the whole study."""
    folder = tmp_path_factory.mktemp("study")
    path, where = folder / "tiny.yaml", folder / "run"
    path.write_text(STUDY)
    done = rlrs("certify", path, "--out", where)
    assert done.returncode == 0, done.stderr
    before = forecast(where / "certificate.json")
    assert read_certificate(where / "certificate.json").checks is None
    assert not (where / "results.json").exists()
    whole = rlrs("run", path, "--out", where)
    assert whole.returncode == 0, whole.stderr
    return path, where, done, before


@pytest.mark.long
def test_every_arm_has_the_same_trials_on_every_rung_and_the_proxy_is_searched_once(certified):
    certificate = read_certificate(certified[1] / "certificate.json")
    assert [rung.name for rung in certificate.rungs if rung.is_proxy] == ["12x1-10"]
    assert {rung.name for rung in certificate.rungs} == {f"{w}x1-{s}" for w in (4, 8, 12) for s in (5, 10)}
    assert all(own.trials <= 8 for rung in certificate.rungs if not rung.is_proxy for own in rung.arms.values())
    assert all(rung.arms["rlrs"].trials == 8 for rung in certificate.rungs if not rung.is_proxy)
    assert all(len(own.losses) == 2 for rung in certificate.rungs for own in rung.arms.values())


@pytest.mark.long
def test_what_is_said_before_the_target_stays_and_the_truth_stands_beside_it(certified):
    _, folder, _, before = certified
    certificate = read_certificate(folder / "certificate.json")
    assert forecast(folder / "certificate.json") == before
    assert certificate.before_target
    losses = read_results(folder / "results.json").comparison.losses
    # So short a ladder may say a base rate at which the target diverges, and then that arm has no loss to check.
    arm = next(arm for arm in ("rlrs", "uniform") if losses[arm].mean is not None)
    measured = losses[arm].mean
    check = next(check for check in certificate.checks if check.what.startswith(f"final loss of {arm}"))
    assert check.measured == measured
    assert check.predicted == certificate.arms[arm].loss
    assert check.inside == (check.predicted.low <= measured <= check.predicted.high)
    spent = read_results(folder / "results.json").cost.ladder
    assert (spent.steps, spent) == (certificate.cost.steps, certificate.cost.spent)
    page = write_certificate_page(folder, "ja").read_text()
    assert "実際の結果" in page
    assert "の最終損失" in page
    page = (folder / "certificate.html").read_text()
    assert "What came out" in page
    assert f"final loss of {arm}" in page


@pytest.mark.long
def test_by_law_the_target_has_what_the_certificate_says(certified):
    folder = certified[1]
    certificate, results = read_certificate(folder / "certificate.json"), read_results(folder / "results.json")
    verdicts = {verdict.component: verdict for verdict in certificate.arms["rlrs"].verdicts}
    assert set(verdicts) == {"embedding", "unembedding"}
    ratios = results.arms["rlrs"].recipe.relative_rates()
    for component, verdict in verdicts.items():
        assert ratios[component].start == pytest.approx(verdict.used[f"{component}.start"], rel=1e-4)
        assert ratios[component].end == pytest.approx(verdict.used[f"{component}.end"], rel=1e-4)
        assert verdict.fate != "drop" or set(verdict.used.values()) == {1.0}
    assert Ratios.load(folder / "ratios.yaml").provenance["carried_by"] == "law"
    first = min(results.arms["rlrs"].transfer.trials, key=lambda trial: trial.number)
    assert first.params["lr"] == pytest.approx(certificate.arms["rlrs"].point["lr"], rel=1e-4)


@pytest.mark.long
def test_the_page_needs_no_network_and_is_small(certified):
    page = certified[1] / "certificate.html"
    assert "http://" not in page.read_text().replace("http://www.w3.org", "")
    assert "https://" not in page.read_text()
    assert page.stat().st_size < 60_000


@pytest.mark.long
def test_the_terminal_says_what_becomes_of_each_component(certified):
    words = " ".join(certified[2].stdout.split())
    assert "Will it carry? tiny" in words
    assert "unembedding" in words
    assert read_certificate(certified[1] / "certificate.json").sentence in words


@pytest.mark.long
def test_the_trail_holds_the_certificate_before_the_decision(certified):
    lines = (certified[1] / "audit.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["entry"]["kind"] for line in lines]
    assert kinds.index("certificate") < kinds.index("decision")
    assert rlrs("audit", "verify", certified[1]).returncode == 0


@pytest.mark.long
def test_another_mode_goes_on_in_the_same_folder_and_is_said_to_come_after_the_target(command, certified, tmp_path):
    _, folder, _, before = certified
    other = tmp_path / "other.yaml"
    other.write_text(STUDY.replace("mode: law", "mode: mup"))
    kept = (folder / "certificate.json").read_bytes()
    try:
        assert command("certify", other, "--out", folder).returncode == 0
        certificate = read_certificate(folder / "certificate.json")
        assert certificate.mode == "mup"
        assert not certificate.before_target
        assert certificate.checks is None  # what was compared was another mode's
        assert [rung.model_dump(mode="json") for rung in certificate.rungs] == before["rungs"]
    finally:
        (folder / "certificate.json").write_bytes(kept)


@pytest.mark.long
def test_a_certificate_that_was_changed_is_one_line(command, certified):
    path, folder, _, _ = certified
    file = folder / "certificate.json"
    kept = file.read_text()
    try:
        file.write_text(kept.replace('"before_target": true', '"before_target": false'))
        done = command("certify", path, "--out", folder)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "does not go with its checksum" in errors[0]
        file.write_text(kept[: len(kept) // 2])
        with pytest.raises(RecordError, match="damaged: "):
            read_certificate(file)
    finally:
        file.write_text(kept)


def line_of_a_rung(lines):
    """Lines about trials on the ladder's rungs, as they are printed."""
    yield from (line for line in lines if line.startswith("ladder/"))


@pytest.mark.long
def test_a_ladder_that_was_killed_ends_with_the_same_certificate(certified, tmp_path):
    path, _, _, before = certified
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "rlrs.cli", "certify", str(path), "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    rungs = [line for line, _ in zip(line_of_a_rung(process.stderr), range(6), strict=False)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(rungs) == 6
    assert not (folder / "certificate.json").exists()
    done = rlrs("certify", path, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert forecast(folder / "certificate.json") == before


def written(tmp_path, *changes):
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_a_study_without_a_ladder_has_no_certificate(command, tmp_path):
    path = written(tmp_path, ("ladder:", "# ladder:"), ("mode: law", "mode: unchanged"))
    done = command("certify", path, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "ladder is missing: a certificate needs ladder.sizes and ladder.horizons" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("share: 100", "share: 1", "costs 11 runs of the target with 8 trials for each of 2 arms on 6 rungs"),
        ("{d_model: 12}], h", "{d_model: 28}], h", "ladder.sizes.2: is above the target's width: 28, should be"),
        ("horizons: [5, 10]", "horizons: [5, 20]", "ladder.horizons: 20 steps are above the target's tokens"),
        ("{d_model: 4},", "{d_model: 5},", "ladder.sizes.0: width should be a multiple of the head size 4, not 5"),
        ("{d_model: 4},", "{d_modle: 4},", "ladder.sizes.0: d_modle: Extra inputs are not permitted"),
        ("{d_model: 4},", "{n_experts: 2},", "has embedding, attention, experts, router"),
        ("[{d_model: 4}, {d_model: 8}, {d_model: 12}]", "[{d_ff: 8}, {d_ff: 16}, {d_ff: 24}]", "three widths"),
        ("eval_tokens: 256", "eval_tokens: 32", "training.eval_tokens: 32 should be a batch of the"),
        ("trials: 10", "trials: 6", "search.trials: 6 should be 8 or more for a ladder"),
    ],
)  # fmt: skip
def test_a_ladder_that_cannot_be_climbed_is_one_line(tmp_path, old, new, message):
    changes = [(old, new)] + ([("trials: 8, ", "")] if old == "trials: 10" else [])
    with pytest.raises(ConfigError) as error:
        resolve(load_study(written(tmp_path, *changes)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_number_of_trials_the_share_says_how_many(tmp_path):
    study = resolve(load_study(written(tmp_path, ("trials: 8, share: 100", "share: 14"))))
    found = plan_ladder(study)
    assert 8 <= found.trials <= 10
    assert found.share <= 14
    more = plan_ladder(study.model_copy(update={"ladder": study.ladder.model_copy(update={"share": 1000.0})}))
    assert more.trials == 10  # those of the search


def test_the_plan_counts_the_ladder_and_the_dry_run_says_its_share(command, tmp_path):
    path = written(tmp_path)
    row = next(row for row in plan(resolve(load_study(path))) if row.stage == "ladder")
    assert row.runs == 5 * 2 * 8 + 6 * 2 * 2  # five rungs beside the proxy are searched, six are measured
    done = command("run", path, "--dry-run")
    words = " ".join(done.stdout.split())
    assert "12x1-10 (the proxy)" in words
    assert "The ladder costs 11 runs of the target, of at most 100." in words


def test_a_trainer_of_ones_own_says_which_value_is_its_width(tmp_path):
    plain = {
        "name": "own",
        "trainer": {"call": "math:sqrt", "components": ["embedding"], "width": "dim", "depth": "layers"},
        "proxy": {"set": {"dim": 8, "layers": 1}, "steps": 10},
        "target": {"set": {"dim": 32, "layers": 1}, "steps": 10},
        "ladder": {"sizes": [{"dim": 4}, {"dim": 6}, {"dim": 8}], "horizons": [5, 10], "trials": 8},
    }
    found = plan_ladder(StudyConfig.model_validate(plain))
    assert [rung.size.width for rung in found.rungs if rung.is_proxy] == [8.0]
    assert found.share is None
    with pytest.raises(ValueError, match=r"trainer\.width='dmi': proxy\.set should have a number above 0 of that name"):
        StudyConfig.model_validate({**plain, "trainer": {**plain["trainer"], "width": "dmi"}})
    with pytest.raises(ValueError, match=r"ladder\.sizes: a trainer of your own is not made 2 times as large"):
        StudyConfig.model_validate({**plain, "ladder": {**plain["ladder"], "sizes": [2, 3, 4]}})
    with pytest.raises(ConfigError, match=r"ladder\.trials is missing"):
        plan_ladder(StudyConfig.model_validate({**plain, "ladder": {**plain["ladder"], "trials": None}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ladder: {sizes: [1, 2], horizons: [5, 10]}", "should have 3 or more, not 2"),
        ("ladder: {sizes: [1, 2, 2], horizons: [5, 10]}", "names one twice"),
        ("ladder: {sizes: [1, 2, 0], horizons: [5, 10]}", "should be a number above 0"),
        ("transfer: {mode: law}", "transfer.mode=law needs the laws of a ladder"),
        ("transfer: {mode: sqrt}", "transfer.mode: should be 'unchanged', 'law', 'sqrt-width' or 'mup'"),
    ],
)
def test_settings_of_a_ladder_that_are_none_are_one_line(tmp_path, text, message):
    base = "\n".join(line for line in STUDY.splitlines() if not line.startswith(("ladder:", "transfer:")))
    path = tmp_path / "study.yaml"
    path.write_text(f"{base}\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load_study(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
