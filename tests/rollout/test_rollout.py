"""A rollout in its folder: locked criteria, looks, sign-off, and everything that was changed, found and named."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rollouts import KEY, declaration, table

from rlrs.audit import AuditError, Trail, note
from rlrs.rollout import Rollout, RolloutError


@pytest.fixture
def rollout(tmp_path):
    return Rollout.begin(declaration(tmp_path), tmp_path / "r")


def kinds(rollout):
    return [entry.kind for entry in Trail(rollout.folder)]


def test_a_stage_that_passed_is_signed_and_the_next_begins(rollout, tmp_path):
    found = rollout.decide([table(tmp_path, 5)])
    assert (found.verdict, found.pairs) == ("pass", 5)
    assert rollout.sign("ann", KEY).name == "sandbox"
    state = rollout.state()
    assert [stage.status(stage is state.current) for stage in state.stages] == ["signed", "open"]
    assert kinds(rollout) == ["x-rollout", "decision", "sign_off"]
    assert rollout.decide([table(tmp_path, 3)]).verdict == "more_data"  # results of the stage before count for nothing
    rollout.decide([table(tmp_path, 6)])
    rollout.sign("ann", KEY)
    with pytest.raises(RolloutError, match=r"all stages are signed: the rollout is done"):
        rollout.decide([table(tmp_path, 6)])


def test_nothing_passes_by_default(rollout, tmp_path):
    with pytest.raises(RolloutError, match=r"stage sandbox has not passed: no look at its results yet"):
        rollout.sign("ann", KEY)
    rollout.decide([table(tmp_path, 3)])
    with pytest.raises(RolloutError, match=r"has not passed: more data: valid_loss: 3 of at least 4 pairs"):
        rollout.sign("ann", KEY)
    with pytest.raises(RolloutError, match=r"a reason to override should be a sentence"):
        rollout.sign("ann", KEY, override="yes")
    rollout.sign("ann", KEY, override="The customer waits for it.")
    assert kinds(rollout) == ["x-rollout", "decision", "override", "sign_off"]
    sandbox = rollout.state().stages[0]
    assert (sandbox.signed_by, sandbox.override) == ("ann", "The customer waits for it.")


def test_only_a_declared_signer_with_the_declared_key_signs(rollout, tmp_path):
    rollout.decide([table(tmp_path, 5)])
    with pytest.raises(RolloutError, match=r"no signer 'bob'; the rollout declares ann"):
        rollout.sign("bob", KEY)
    with pytest.raises(RolloutError, match=r"the key is not the one that the rollout declares for ann"):
        rollout.sign("ann", Ed25519PrivateKey.generate())
    note(rollout.folder, "sign_off", statement="I am Ann", by="ann", stage="sandbox")
    assert rollout.state().stages[0].signed_by is None
    rollout.sign("ann", KEY)
    assert rollout.state().stages[0].signed_by == "ann"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_pairs: 8", "max_pairs: 80", "stages.sandbox.max_pairs was 8 and is 80"),
        ("min_gain: 0.0", "min_gain: -1.0", "stages.sandbox.min_gain was 0.0 and is -1.0"),
        ("candidate: new", "candidate: newer", "candidate was 'new' and is 'newer'"),
    ],
)
def test_a_criterion_that_is_changed_later_is_found_and_named(rollout, old, new, said):
    path = rollout.folder / "rollout.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RolloutError, match=f"rollout.yaml: {said}: it was locked when its stage began"):
        rollout.state()


def test_comments_in_the_rollouts_own_file_change_nothing(rollout, tmp_path):
    path = rollout.folder / "rollout.yaml"
    path.write_text("# seen by Ann\n" + path.read_text())
    rollout.decide([table(tmp_path, 5)])
    assert rollout.sign("ann", KEY).name == "sandbox"


def test_the_same_declaration_twice_is_one_entry(rollout, tmp_path):
    Rollout.begin(declaration(tmp_path), rollout.folder)
    assert kinds(rollout) == ["x-rollout"]


def test_an_override_that_nobody_signed_counts_for_nothing(rollout, tmp_path):
    note(rollout.folder, "override", what="stage sandbox", value="enter middle", reason="I say so", stage="sandbox")
    with pytest.raises(RolloutError, match=r"has not passed"):
        rollout.sign("ann", KEY)
    rollout.decide([table(tmp_path, 5)])
    rollout.sign("ann", KEY)
    assert rollout.state().stages[0].override is None


def test_a_stage_that_has_not_begun_may_be_declared_anew_and_one_that_has_may_not(rollout, tmp_path):
    path = declaration(tmp_path)
    text = path.read_text()
    head, middle = text.split("  middle:")
    path.write_text(f"{head}  middle:{middle.replace('max_pairs: 8', 'max_pairs: 20')}")
    again = Rollout.begin(path, rollout.folder)
    assert again.state().stages[1].config.max_pairs == 20
    path.write_text(text.replace("max_pairs: 8", "max_pairs: 20", 1))
    with pytest.raises(RolloutError, match=r"stages.sandbox.max_pairs was 8 and is 20, and was locked"):
        Rollout.begin(path, rollout.folder)
    assert again.state().stages[0].config.max_pairs == 8


def test_a_locked_criterion_declared_anew_in_the_trail_is_named(rollout, tmp_path):
    other = Rollout.begin(declaration(tmp_path, max_pairs=80), tmp_path / "other")
    facts = next(iter(Trail(other.folder))).facts
    note(rollout.folder, "x-rollout", **facts)
    with pytest.raises(RolloutError, match=r"entry 1: stages.sandbox.max_pairs was 8 and is 80, declared anew"):
        rollout.state()


def test_a_verdict_that_the_results_do_not_give_is_named(rollout):
    facts = {"decision": "pass", "reason": "trust me", "stage": "sandbox", "pairs": 9, "results": []}
    note(rollout.folder, "decision", **facts)
    with pytest.raises(RolloutError, match=r"says 'pass' of stage sandbox, on 9 pairs; .* say 'more_data', on 0"):
        rollout.state()


def test_an_edited_trail_is_refused(rollout, tmp_path):
    rollout.decide([table(tmp_path, 3)])
    path = rollout.folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"3.15", b"3.05", 1))
    with pytest.raises(AuditError, match=r"changed after it was written"):
        rollout.decide([table(tmp_path, 5)])


def test_what_was_seen_may_not_be_taken_back(rollout, tmp_path):
    rollout.decide([table(tmp_path, 3)])
    with pytest.raises(RolloutError, match=r"run '2' of old, which an earlier look at stage sandbox had, is missing"):
        rollout.decide([table(tmp_path, 2)])
    with pytest.raises(RolloutError, match=r"run '0' of new is another than at an earlier look .* then, .* now"):
        rollout.decide([table(tmp_path, 5, gain=0.5)])
    assert kinds(rollout) == ["x-rollout", "decision"]


def test_a_look_without_new_results_writes_nothing(rollout, tmp_path):
    for _ in range(2):
        assert rollout.decide([table(tmp_path, 3)]).verdict == "more_data"
    assert rollout.decide([table(tmp_path, 4)]).pairs == 4
    entries = [entry for entry in Trail(rollout.folder) if entry.kind == "decision"]
    assert [len(entry.facts["results"]) for entry in entries] == [6, 2]


def test_a_stage_that_failed_is_not_tried_again(rollout, tmp_path):
    extra = "new,7,,diverged\n"
    assert rollout.decide([table(tmp_path, 5, extra=extra)]).verdict == "fail"
    assert rollout.decide([table(tmp_path, 6)]).verdict == "fail"
    assert kinds(rollout) == ["x-rollout", "decision"]
    rollout.sign("ann", KEY, override="The machine lost its power.")
    assert rollout.state().current.name == "middle"


def test_thresholds_are_locked_with_the_rollout(tmp_path):
    path = declaration(tmp_path)
    path.write_text(path.read_text() + "thresholds: monitor.yaml\n")
    from rlrs.monitoring import Thresholds

    Thresholds().save(tmp_path / "monitor.yaml")
    rollout = Rollout.begin(path, tmp_path / "r")
    kept = rollout.folder / "monitor.yaml"
    kept.write_text(kept.read_text() + "\n# weaker\n")
    with pytest.raises(RolloutError, match=r"monitor.yaml is not what it was then"):
        rollout.state()
