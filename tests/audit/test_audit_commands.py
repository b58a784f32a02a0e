"""`rlrs audit` on the command line: what it prints, and its exit codes."""

import subprocess
import sys

import pytest

from audit_attacks import written
from rlrs.audit import Trail, note
from rlrs.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def test_verify_exits_with_0_1_and_2(tmp_path, call):
    lines, anchor = written(tmp_path, 3)
    path = tmp_path / "audit.jsonl"
    code, out, _ = call("verify", tmp_path, "--anchor", anchor)
    assert (code, out) == (0, f"intact: 3 entries, head {anchor.head}\n")
    path.write_bytes(b"".join(lines[:2]))
    code, out, _ = call("verify", path, "--anchor", anchor)
    assert code == 1
    assert out.splitlines()[0] == "entry 2: truncated: the anchor states 3 entries"
    path.unlink()
    code, out, err = call("verify", tmp_path)
    assert (code, out) == (2, "")
    assert "no audit trail there" in err
    assert err.count("\n") == 1


def test_verify_without_an_anchor_says_what_it_cannot_tell(tmp_path, call):
    written(tmp_path, 1)
    assert "without --anchor or --key, a cut at the end or a new trail cannot be told" in call("verify", tmp_path)[1]


def test_an_anchor_printed_to_a_file_is_read_back(tmp_path, call):
    written(tmp_path, 2)
    code, out, _ = call("anchor", tmp_path)
    assert code == 0
    (tmp_path / "kept.txt").write_text(f"To the archive:\n{out}")
    assert call("verify", tmp_path, "--anchor", tmp_path / "kept.txt")[0] == 0
    assert call("verify", tmp_path, "--anchor", tmp_path / "none.txt")[0] == 2
    (tmp_path / "kept.txt").write_text("nothing")
    code, _, err = call("verify", tmp_path, "--anchor", tmp_path / "kept.txt")
    assert code == 2
    assert "no anchors found" in err


def test_an_anchor_of_a_tampered_trail_is_refused(tmp_path, call):
    written(tmp_path, 2)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"go on 0", b"go on 9"))
    code, out, err = call("anchor", tmp_path)
    assert (code, out) == (2, "")
    assert "not intact: entry 0 (line 1): edited" in err


def test_show_keeps_to_a_line_an_entry_and_moves_no_cursor(tmp_path, call):
    note(tmp_path, "decision", decision="use", reason="red\x1b[31m\nnext \u202eline")
    note(tmp_path, "alarm", check="loss", message="high")
    code, out, _ = call("show", tmp_path)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert r"red\u001b[31m\u000anext \u202eline" in out
    assert [line.split()[4] for line in call("show", tmp_path, "--kind", "alarm")[1].splitlines()] == ["alarm"]
    assert '"decision":"use"' in call("show", tmp_path, "--json")[1]


def test_half_a_last_line_is_said(tmp_path, call):
    note(tmp_path, "alarm", check="loss", message="high")
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b'{"entry":{"actor":"an')
    code, out, err = call("show", tmp_path)
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == "note: 21 bytes at the end are half an entry; `rlrs audit verify` says more\n"
    code, out, _ = call("verify", tmp_path)
    assert (code, out.splitlines()[0][:50]) == (0, "note: 21 bytes at the end are the beginning of an ")
    note(tmp_path, "alarm", check="loss", message="higher")
    assert call("show", tmp_path)[2] == ""
    assert "entry 1: before it a write was cut off: 21 bytes" in call("verify", tmp_path)[1]


def test_diff_and_export(tmp_path, call):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        note(tmp_path / name, "data", hash=name)
    assert call("diff", tmp_path / "a", tmp_path / "b")[1] == "data.hash: 'a' -> 'b'\n"
    assert call("diff", tmp_path / "a", tmp_path / "a")[1].startswith("no difference")
    assert call("export", tmp_path / "a")[1].startswith("# Recipe card: a\n")
    assert call("export", tmp_path / "a", "--html", tmp_path / "card.html")[0] == 0
    assert (tmp_path / "card.html").read_text().startswith("<!doctype html>")
    assert call("export", tmp_path / "none")[0] == 2


def test_sign_and_verify_with_the_key(tmp_path, call):
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as forms

    key, path = ed25519.Ed25519PrivateKey.generate(), tmp_path / "me.pem"
    path.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
    public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "me.pub").write_bytes(public)
    written(tmp_path, 1)
    assert call("verify", tmp_path, "--key", tmp_path / "me.pub")[0] == 1
    code, out, _ = call("sign", tmp_path, "--key", path, "--statement", "seen")
    assert code == 0
    assert out == f"signed  {Trail(tmp_path).anchor()}\n"
    assert call("verify", tmp_path, "--key", tmp_path / "me.pub")[0] == 0
    assert call("sign", tmp_path, "--key", tmp_path / "none.pem", "--statement", "seen")[0] == 2


def test_the_command_line_starts_without_what_the_trail_needs():
    code = "import sys, rlrs.cli; print([m for m in ('pydantic', 'rfc8785', 'cryptography') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_show_refuses_a_kind_that_there_is_not(tmp_path, call):
    written(tmp_path, 1)
    code, out, said = call("show", tmp_path, "--kind", "decisions")
    assert (code, out) == (2, "")
    assert "no kind of audit entry: 'decisions'; did you mean 'decision'?" in said
    assert call("show", tmp_path, "--kind", "x-mine") == (0, "", "")


def test_show_says_a_check_once(tmp_path, call):
    note(tmp_path, "alarm", check="loss_rise", message="loss_rise in router at step 9: 0.7, threshold 0.5")
    _, out, _ = call("show", tmp_path)
    assert out.rstrip().endswith("  loss_rise in router at step 9: 0.7, threshold 0.5")
    assert out.count("loss_rise") == 1
