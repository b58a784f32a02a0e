"""Whatever is done to a trail is found, and named as what it was."""

import json

import pytest

from audit_attacks import EDITS, edited, sealed, written
from rlrs.audit import Anchor, AuditError, Trail, digests, note


@pytest.fixture
def trail(tmp_path):
    written(tmp_path, 8)
    return Trail(tmp_path)


def rewrite(trail, change):
    lines = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(change(lines)))


def said(trail, *arguments):
    return [str(one) for one in trail.verify(*arguments).found]


def test_random_edits_of_every_kind_are_found_and_named():
    result = edited(20 * len(EDITS), seed=3)
    assert result["missed"] == []
    assert result["found"] == result["tried"]


def test_an_intact_trail_is_intact(trail):
    result = trail.verify(trail.anchor())
    assert (result.intact, result.entries, result.notes) == (True, 8, ())


def test_a_changed_word_is_an_edit_of_that_entry(trail):
    rewrite(trail, lambda lines: [line.replace(b"go on 3", b"stop") for line in lines])
    assert said(trail) == ["entry 3 (line 4): edited: its content does not have the hash that it was written with"]


def test_a_changed_hash_is_an_edit_of_that_entry(trail):
    rewrite(trail, lambda lines: [*lines[:3], lines[3][:-67] + b"0" * 64 + b'"}\n', *lines[4:]])
    assert [(one.kind, one.entry, one.line) for one in trail.verify().found] == [("edited", 3, 4)]


def test_lines_that_change_places_are_reordered(trail):
    rewrite(trail, lambda lines: [*lines[:2], lines[5], *lines[3:5], lines[2], *lines[6:]])
    assert said(trail) == [
        "entry 5 (line 3): reordered: it belongs behind entry 4",
        "entry 2 (line 6): reordered: it belongs behind entry 1",
    ]


def test_missing_lines_are_removed_entries(trail):
    rewrite(trail, lambda lines: [*lines[:2], *lines[5:]])
    assert said(trail) == ["entries 2 to 4: removed: not in the file"]


def test_a_missing_beginning_is_removed_entries(trail):
    rewrite(trail, lambda lines: lines[1:])
    assert said(trail) == ["entry 0: removed: not in the file"]


def test_a_missing_end_needs_the_anchor(trail):
    kept = trail.anchor()
    rewrite(trail, lambda lines: lines[:6])
    assert trail.verify().intact
    assert said(trail, kept) == ["entries 6 to 7: truncated: the anchor states 8 entries"]


def test_an_empty_file_is_a_trail_cut_to_nothing(trail):
    kept = trail.anchor()
    trail.path.write_bytes(b"")
    assert trail.verify().notes == ("the trail has no entries",)
    assert said(trail, kept) == ["entries 0 to 7: truncated: the anchor states 8 entries"]


def test_an_entry_resealed_is_replaced(trail):
    def change(lines):
        entry = json.loads(lines[4])["entry"]
        return [*lines[:4], sealed({**entry, "actor": "nobody"}), *lines[5:]]

    rewrite(trail, change)
    assert said(trail) == ["entry 4 (line 5): replaced: it is not the entry that the next one was written behind"]


def test_a_trail_written_anew_with_right_hashes_needs_the_anchor(trail, tmp_path):
    kept = trail.anchor()
    trail.path.unlink()
    for number in range(8):
        note(tmp_path, "decision", decision=f"stop {number}", reason="forged")
    assert trail.verify().intact
    assert [(one.kind, one.entry) for one in trail.verify(kept).found] == [("rewritten", 7)]


def test_entries_behind_the_anchor_are_no_tampering(trail):
    kept = trail.anchor()
    trail.append("x-later")
    assert trail.verify(kept).intact


def test_two_things_at_once_are_both_named(trail):
    rewrite(trail, lambda lines: [lines[0], lines[1].replace(b"go on", b"go ON"), *lines[2:4], *lines[5:]])
    assert [(one.kind, one.entry) for one in trail.verify().found] == [("edited", 1), ("removed", 4)]


def test_a_changed_output_file_is_named(tmp_path):
    (tmp_path / "ratios.yaml").write_text("schema: 1")
    note(tmp_path, "ended", status="finished", files=digests(tmp_path, "ratios.yaml"))
    assert Trail(tmp_path).verify().intact
    (tmp_path / "ratios.yaml").write_text("schema: 2")
    assert said(Trail(tmp_path)) == [
        "entry 0: file: ratios.yaml is not what it was then: edited, or its study was killed before it could say so"
    ]
    (tmp_path / "ratios.yaml").unlink()
    assert "is missing" in said(Trail(tmp_path))[0]


def test_a_file_name_that_leads_out_of_the_folder_is_not_opened(tmp_path):
    note(tmp_path, "ended", status="finished", files={"../secret": "0" * 64, "/etc/hostname": "0" * 64})
    assert Trail(tmp_path).verify().intact


def test_a_later_format_cannot_be_read(trail):
    def change(lines):
        entry = json.loads(lines[7])["entry"]
        return [*lines[:7], sealed({**entry, "format": 2})]

    rewrite(trail, change)
    with pytest.raises(AuditError, match="line 8: format 2 of a later rlrs; this one reads 1"):
        trail.verify()


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"{}\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        sealed({}),
        sealed({"index": -1}),
        sealed({"index": 10**9, "format": 1}),
    ],
    ids=["blank", "object", "bytes", "deep", "empty", "negative", "far"],
)
def test_junk_between_entries_is_inserted(trail, junk):
    rewrite(trail, lambda lines: [*lines[:4], junk, *lines[4:]])
    assert said(trail) == ["line 5: inserted: it is no entry of this trail"]


def test_iteration_stops_at_what_was_changed(trail):
    rewrite(trail, lambda lines: [line.replace(b"go on 3", b"stop") for line in lines])
    entries = iter(trail)
    assert [next(entries).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(AuditError, match="line 4: changed after it was written"):
        next(entries)


@pytest.mark.parametrize("text", ["", "rlrs-audit/1 entries=x head=0", "rlrs-audit/1 entries=3 head=" + "a" * 63])
def test_a_text_without_an_anchor_is_refused(text):
    with pytest.raises(AuditError, match="no anchors found"):
        Anchor.parse(text)


def test_two_different_anchors_are_refused():
    with pytest.raises(AuditError, match="2 anchors found"):
        Anchor.parse(f"{Anchor(length=1, head='a' * 64)}\n{Anchor(length=2, head='b' * 64)}")
