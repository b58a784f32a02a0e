"""Files of the version before are read; those of a version to come, and damaged ones, are one line that names them."""

import json
import shutil
from pathlib import Path

import pytest

import rlrs
from monitoring.loops import make
from report.sample import write_sample
from rlrs.audit import Trail, note
from rlrs.audit.anchors import signatures
from rlrs.comparison import read_results
from rlrs.data.facts import read_facts
from rlrs.monitoring import Alarm, Guard, Thresholds, check_file
from rlrs.records import read_ablations, read_certificate, read_metrics, read_refutations
from rlrs.training import train
from rlrs.training.storage import _seal, read_manifest
from training.small import make_data, make_spec

REPOSITORY = Path(__file__).parents[1]


def trail(path):
    """A trail whose last entry has another format, with a hash that is right."""
    import hashlib

    note(path.parent, "x-a")
    text = path.read_bytes()
    body = text[len(b'{"entry":') : text.index(b',"hash":"')].replace(b'"format":1', b'"format":2')
    path.write_bytes(b'{"entry":' + body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n')
    return list(Trail(path))


READERS = {
    "results.json": (read_results, '{"schema": 3}', "has schema 3, this version of rlrs reads 1 and 2"),
    "certificate.json": (read_certificate, '{"schema": 2}', "has schema 2, of a later rlrs: this one reads 1"),
    "refutations.json": (read_refutations, '{"schema": 2}', "has schema 2, of a later rlrs: this one reads 1"),
    "ablations.json": (read_ablations, '{"schema": 2}', "has schema 2, of a later rlrs: this one reads 1"),
    "ratios.yaml": (rlrs.Ratios.load, "schema: 2\nratios: {}\n", "has schema 2, of a later rlrs: this one reads 1"),
    "monitor.yaml": (Thresholds.load, "format: 2\n", "has format 2, of a later rlrs: this one reads 1"),
    "data.json": (lambda path: read_facts(path.parent), '{"format": 4}', "has format 4, of a later rlrs: this one"),
    "audit.sig": (lambda path: list(signatures(path.parent)), '{"format": 2}\n', "format 2 of a later rlrs; this one"),
    "audit.jsonl": (trail, "", "format 2 of a later rlrs; this one reads 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_later_version_is_one_line_that_says_so(tmp_path, name):
    read, text, said = READERS[name]
    path = tmp_path / name
    if text:
        path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in READERS if name != "audit.jsonl"])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"schema": 1, \x00')
    with pytest.raises(ValueError) as error:  # noqa: PT011  the line is below
        READERS[name][0](path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_results_of_schema_1_are_read_and_decided_anew(tmp_path):
    old = read_results(write_sample(tmp_path / "1", schema=1) / "results.json")
    new = read_results(write_sample(tmp_path / "2", schema=2) / "results.json")
    assert old.comparison.decision.winner == new.comparison.decision.winner
    assert old.comparison.losses == new.comparison.losses


@pytest.mark.parametrize("name", ["demo_before_rebuild", "demo_local_search"])
def test_results_that_0_1_wrote_are_read(name):
    found = read_results(REPOSITORY / "experiments" / "demo" / f"{name}.json")
    assert found.comparison is not None
    assert found.comparison.decision.winner in found.arms


@pytest.mark.parametrize("version", [1, 2])
def test_tokens_of_an_earlier_format_are_prepared_again(tmp_path, version):
    (tmp_path / "data.json").write_text(json.dumps({"format": version}))
    assert read_facts(tmp_path) is None


def test_a_run_of_0_1_is_gone_on_with_from_its_checkpoint(tmp_path):
    """Its manifest has neither losses on general text nor a guard's state; its result.json no checksum."""
    whole = train(make_spec(), make_data(), tmp_path / "whole")
    folder = tmp_path / "old"
    shutil.copytree(tmp_path / "whole", folder)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-0000000020")
    for checkpoint in (folder / "checkpoints").iterdir():
        manifest = read_manifest(checkpoint)
        for later in ("general_losses", "guard"):
            del manifest[later]
        (checkpoint / "checkpoint.json").write_text(json.dumps({**manifest, "seal": _seal(manifest)}))
    assert train(make_spec(), make_data(), folder).score == whole.score
    plain = json.loads((folder / "result.json").read_text())
    for later in ("checksum", "learned", "general_before", "general_loss"):
        plain.pop(later)
    (folder / "result.json").write_text(json.dumps(plain))
    assert train(make_spec(), make_data(), folder).score == whole.score


def test_lines_of_metrics_of_0_1_are_read(tmp_path):
    """They have neither norms of weights nor scheduled rates."""
    numbers = {"lr": 1e-3, "ratio": 1.0, "grad_norm": 0.1, "update_ratio": 1e-3}
    lines = [{"step": n, "tokens": n, "loss": 3.0, "lr_base": 1e-3, "components": {"norm": numbers}} for n in (1, 2)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line.components["norm"].weight_norm for line in read_metrics(path)] == [None, None]
    assert check_file(path) == []


def test_a_guards_state_of_0_1_is_gone_on_with():
    guard = Guard(make()[2], {"loss_rise": "pull"})
    guard.react([Alarm(check="loss_rise", step=9, value=1, threshold=0.5, cause="a", remedy="b")])
    state = {key: value for key, value in guard.state_dict().items() if key not in ("scale", "ahead", "held")}
    again = Guard(make()[2], {"loss_rise": "pull"})
    again.load_state_dict(state)
    assert again.taken == guard.taken
    assert again.batch(7) == 7


def test_the_page_on_files_names_every_versioned_file():
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    section = page.partition("## Versions of files")[2].partition("\n## ")[0]
    missing = [name for name in READERS if f"`{name}`" not in section.replace("data/data.json", "data.json")]
    assert missing == []
