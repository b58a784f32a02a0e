"""The recipe card and the difference of two trails."""

import json
import random
import re

import pytest

from rlrs import Ratios
from rlrs.audit import AuditError, Trail, differences, note, recipe_card

SCHEMA_1 = {
    "schema": 1,
    "study": {"name": "pilot", "config_hash": "abc"},
    "environment": {"rlrs": "0.1.0", "commit": "c0ffee", "torch": "2.13.0"},
    "data": {"source": "files:a|b<i>.txt", "hash": "d1", "train_tokens": 12345},
    "models": {"proxy": {"parameters": {"total": 1000}, "steps": 10, "tokens": 640}},
    "search": {"rlrs": {"trials": [{"steps": 10}, {"steps": 5}], "stopped": "a sweep changed nothing"}},
    "base": {"rlrs": {"lr": 0.004}, "uniform": {"lr": 0.002}},
    "comparison": {
        "seeds": [1, 2],
        "losses": {"uniform": {"mean": 3.5}, "rlrs": {"mean": 3.25}},
        "differences": {"uniform": {"mean": -0.25, "low": -0.3, "high": -0.2}},
        "verdict": {"kind": "gain", "sentence": "It gains."},
    },
    "cost": {"search": {"steps": 15, "tokens": 960}},
}
SCHEMA_2 = {
    **{key: SCHEMA_1[key] for key in ("study", "environment", "data", "models", "cost")},
    "schema": 2,
    "arms": {
        "uniform": {"recipe": {"lr": 0.001, "target_lr": 0.002}},
        "rlrs": {
            "recipe": {"lr": 0.003, "target_lr": 0.004},
            "search": {
                "trials": [{"result": {"steps": 10}}, {"result": {"steps": 5}}],
                "reason": "a sweep changed nothing",
            },
        },
    },
    "comparison": {
        **{key: SCHEMA_1["comparison"][key] for key in ("seeds", "losses", "differences")},
        "decision": {"winner": "rlrs", "sentence": "It gains.", "notes": ["One seed was unlike the others."]},
    },
}


@pytest.fixture
def study(tmp_path):
    note(tmp_path, "begun", study="pilot")
    Trail(tmp_path).append("override", {"what": "lr", "value": 0.002, "reason": "half the batch"}, actor="Ann")
    Ratios({"embedding": (5.0, 0.5), "router": 2.0}, {"base": {"lr": 0.004}}).save(tmp_path / "ratios.yaml")
    return tmp_path


@pytest.mark.parametrize("results", [SCHEMA_1, SCHEMA_2], ids=["schema 1", "schema 2"])
def test_the_card_has_what_the_study_found_whatever_the_schema(study, results):
    (study / "results.json").write_text(json.dumps(results))
    card = recipe_card(study)
    assert card.startswith("# Recipe card: pilot\n\nIt gains.\n")
    for row in (
        "| embedding | 5 | 0.5 |  |",
        "| rlrs | 2 | 15 | a sweep changed nothing |",
        "| uniform | 0.002 | 3.5 | -0.25 (-0.3 to -0.2) |",
        "| rlrs | 0.004 | 3.25 |  |",
        "| proxy | 1000 | 10 | 640 |",
        "| commit | c0ffee |",
        "| train_tokens | 12,345 |",
    ):
        assert row in card, row
    assert re.search(r"\| 1 \| 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \| Ann \| override \| lr=0.002: half the batch \|", card)
    assert ("One seed was unlike" in card) == (results is SCHEMA_2)


def test_the_card_has_all_nine_points_of_annex_iv(study):
    card = recipe_card(study)
    headings = re.findall(r"^##+ (\d(?:\([a-z]\))?)", card, re.MULTILINE)
    assert headings == ["1", "2", "2(a)", "2(b)", "2(c)", "2(d)", "2(g)", "3", "4", "6"]
    left = re.findall(r"^\| (\d)", card[card.index("## Left to the provider") :], re.MULTILINE)
    assert {int(point) for point in left} | {4, 6} == set(range(1, 10))


def test_what_others_wrote_cannot_become_markup(study):
    (study / "results.json").write_text(json.dumps(SCHEMA_1 | {"study": {"name": "<script>x</script>"}}))
    page = recipe_card(study, "html")
    assert "<script" not in page
    assert "files:a|b&lt;i&gt;.txt" in page
    assert "http" not in page.replace("http-equiv", "")
    assert r"files:a\|b\<i>.txt" in recipe_card(study)


def test_a_trail_that_is_not_intact_is_said_and_not_quoted(study):
    path = study / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"half the batch", b"no reason given"))
    card = recipe_card(study)
    assert "The audit trail is NOT intact" in card
    assert "entry 1 (line 2): edited" in card
    assert "no reason given" not in card


def test_missing_files_are_said(tmp_path):
    note(tmp_path, "x-a")
    assert "not on this card: results.json, ratios.yaml." in recipe_card(tmp_path)
    (tmp_path / "audit.jsonl").unlink()
    with pytest.raises(AuditError, match="not a study's folder"):
        recipe_card(tmp_path)
    with pytest.raises(AuditError, match="no such folder"):
        recipe_card(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_damaged_results_are_one_line(study, text):
    (study / "results.json").write_text(text)
    with pytest.raises(AuditError, match=r"results\.json: damaged: not"):
        recipe_card(study)


def test_results_of_a_later_version_are_one_line_and_no_card(study):
    (study / "results.json").write_text('{"schema": 99}')
    with pytest.raises(AuditError, match=r"results\.json: has schema 99, of a later rlrs: this one reads up to 2"):
        recipe_card(study)


def test_results_of_the_wrong_types_leave_gaps_and_no_traceback(study):
    dice = random.Random(0)
    junk = [None, 3, "text", [], {}, [1], {"a": 1}, True, 1e308]

    def damaged(value, depth=0):
        if depth and dice.random() < 0.15:
            return dice.choice(junk)
        if isinstance(value, dict):
            return {key: damaged(item, depth + 1) for key, item in value.items()}
        return [damaged(item, depth + 1) for item in value] if isinstance(value, list) else value

    for number in range(200):
        (study / "results.json").write_text(json.dumps({**damaged([SCHEMA_1, SCHEMA_2][number % 2]), "schema": None}))
        assert "Recipe card" in recipe_card(study, "html")


def test_two_trails_differ_in_what_changed_and_not_in_when(tmp_path):
    a, b = Trail(tmp_path / "a"), Trail(tmp_path / "b")
    for trail, commit, start in ((a, "old", 5), (b, "new", 4)):
        trail.folder.mkdir()
        trail.append("begun", {"environment": {"commit": commit, "torch": "2.13.0"}}, actor=commit)
        trail.append("data", {"hash": "d1"})
        trail.append("ratios", {"arm": "rlrs", "ratios": {"embedding": {"start": start, "end": 0.5}}})
        trail.append("alarm", {"check": "loss", "message": "high"})
        trail.append("ended", {"status": "finished", "files": {"ratios.yaml": commit * 20}})
    b.append("alarm", {"check": "loss", "message": "high"})
    assert [str(one) for one in differences(a, b)] == [
        "start.environment.commit: 'old' -> 'new'",
        "ratios.rlrs.embedding.start: 5 -> 4",
        "alarm, only in B: 'loss: high'",
    ]
    assert differences(a, a) == []
