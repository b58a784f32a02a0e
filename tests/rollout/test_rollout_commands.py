"""`rlrs rollout` on the command line: exit codes, one line for bad input, JSON."""

import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from rollouts import KEY, PUBLIC, declaration, table

from rlrs.cli import main


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "ann.pem").write_bytes(KEY.private_bytes(*pem))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", "rollout", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def test_from_init_to_sign(call, tmp_path):
    declaration(tmp_path)
    code, out, _ = call("init", "rollout.yaml", "--out", "r")
    assert code == 0
    assert "sandbox is open, its criteria are locked" in out
    assert "rlrs-audit/1 entries=1 head=" in out
    assert call("decide", "r", table(tmp_path, 3))[0] == 3
    code, out, _ = call("decide", "r", table(tmp_path, 5))
    assert code == 0
    assert out.startswith("sandbox: pass after 5 pairs\n")
    assert call("sign", "r", "--by", "ann", "--key", "ann.pem")[0] == 0
    code, out, _ = call("decide", "r", table(tmp_path, 5, extra="new,7,,failed\n"))
    assert code == 1
    assert "back out: Ann puts the old rates back." in out
    code, out, _ = call("status", "r", "--json")
    assert code == 0
    state = json.loads(out)
    assert [stage["status"] for stage in state["stages"]] == ["signed", "failed"]
    assert state["stages"][0]["signed_by"] == "ann"
    assert "middle       failed" in call("status", "r")[1]


@pytest.mark.parametrize(
    ("sandbox", "said"),
    [
        ({"back_out": "none"}, "stages.sandbox.back_out: should say in a sentence what to do if the stage fails"),
        ({"max_pair": 9}, "unknown key 'stages.sandbox.max_pair'; did you mean 'max_pairs'?"),
        ({"min_pairs": 20}, "stages.sandbox: min_pairs is 20, above max_pairs, 8"),
        ({"min_pairs": 2}, "stages.sandbox.min_pairs: should be at least 3, not 2"),
        ({"guardrails": {"x": {}}}, "stages.sandbox.guardrails.x: should have one of at_most and at_least"),
        ({"min_gain": "much"}, "stages.sandbox.min_gain: should be a number, not 'much'"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_one_line_and_leaves_nothing(call, tmp_path, sandbox, said):
    declaration(tmp_path, **sandbox)
    code, out, err = call("init", "rollout.yaml", "--out", "r")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: rollout.yaml: {said}")
    assert not (tmp_path / "r").exists()


def test_the_declaration_to_copy_needs_a_key_and_nothing_else(call, tmp_path):
    text = (Path(__file__).parents[2] / "configs" / "rollout.yaml").read_text()
    (tmp_path / "rollout.yaml").write_text(text)
    assert "signers.ann: no public key" in call("init", "rollout.yaml", "--out", "r")[2]
    (tmp_path / "rollout.yaml").write_text(text.replace("ann.pub", PUBLIC))
    code, out, _ = call("init", "rollout.yaml", "--out", "r")
    assert (code, out.partition(";")[0]) == (0, "r: stages sandbox, middle, production")


def test_a_signer_without_a_key_is_one_line(call, tmp_path):
    path = declaration(tmp_path)
    path.write_text(path.read_text().replace("ann: ", "ann: keys/"))
    code, _, err = call("init", "rollout.yaml", "--out", "r")
    assert (code, err.count("\n")) == (2, 1)
    assert "rollout.yaml: signers.ann: no public key: No such file or directory" in err


@pytest.mark.parametrize(
    "command", [("status", "r"), ("decide", "r", "x.csv"), ("sign", "r", "--by", "a", "--key", "k")]
)
def test_a_folder_without_a_rollout_is_one_line(call, command):
    code, out, err = call(*command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "r: no rollout there; `rlrs rollout init ROLLOUT.yaml --out r` begins one" in err


def test_runs_are_given_as_arm_and_folder(call, tmp_path):
    declaration(tmp_path)
    call("init", "rollout.yaml", "--out", "r")
    assert "--runs should be ARM=FOLDER" in call("decide", "r", "--runs", "new")[2]
    assert "the arms are old and new" in call("decide", "r", "--runs", f"other={tmp_path}")[2]
