"""`rlrs train` on every kind of source, and what it says of sources that cannot be used."""

import sys
from pathlib import Path

import pytest
from corpora import write_jsonl, write_packed, write_parquet

from rlrs.cli import main
from tools import bad_data

STUDY = """
name: tiny
data: {{{data}, sequence_length: 16, valid_fraction: 0.2}}
training: {{score_steps: 2, eval_tokens: 64, evaluations: 1}}
proxy: {{model: {{d_model: 16, n_layers: 1, n_heads: 2}}, steps: 4, batch_size: 4}}
target: {{model: {{d_model: 16, n_layers: 1, n_heads: 2}}, steps: 4, batch_size: 4}}
"""


@pytest.fixture
def train(tmp_path, capsys, monkeypatch):
    def run(data, *arguments):
        (tmp_path / "study.yaml").write_text(STUDY.format(data=data))
        command = arguments or ("train", tmp_path / "study.yaml", "--out", tmp_path / "run")
        monkeypatch.setattr(sys, "argv", ["rlrs", *map(str, command)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return run


def test_runs_from_every_source(train, tmp_path, stories):
    write_jsonl(tmp_path / "set" / "train.jsonl", stories)
    write_parquet(tmp_path / "a.parquet", stories, "content")
    for number in range(10):
        write_packed(tmp_path / "gz" / f"{number}.txt.gz", "".join(stories[number * 20 : number * 20 + 20]).encode())
    for number, data in enumerate(
        [
            f"source: 'hf:{tmp_path}/set', vocab_size: 300",
            f"source: 'files:{tmp_path}/*.parquet', text_field: content, vocab_size: 300",
            f"source: 'files:{tmp_path}/gz/*.txt.gz', vocab_size: 300",
            f"source: 'files:{tmp_path}/gz/*.txt.gz', tokenizer: bytes",
        ]
    ):
        code, out, err = train(data, "train", tmp_path / "study.yaml", "--out", tmp_path / f"run-{number}")
        assert code == 0, err
        assert "nats per token after 4 steps" in out
    code, out, _ = train("source: stdlib, tokenizer: bytes", "run", tmp_path / "study.yaml", "--dry-run")
    assert code == 0
    assert "Nothing was trained" in out


def test_tokens_are_prepared_ahead_and_what_is_left_out_is_said(train, tmp_path, stories):
    write_jsonl(tmp_path / "a.jsonl", stories)
    (tmp_path / "b.jsonl").write_text("")
    data = f"source: 'files:{tmp_path}/*.jsonl', tokenizer: bytes, damaged: skip, folder: '{tmp_path}/tokens'"
    code, out, err = train(data, "data", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert code == 0, err
    assert "left out  b.jsonl: is empty" in out
    assert "documents" in out
    assert "200" in out
    code, out, err = train(data)
    assert code == 0, err
    assert not list((tmp_path / "run" / "data").glob("*.bin"))
    assert len(list((tmp_path / "tokens").glob("*/train-00000.bin"))) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("source: c4", "source='c4' should be 'stdlib'"),
        ("source: stdlib, split: test, config_name: en", "data: config_name='en' is for 'hf:' sources only"),
        ("source: 'files:{0}/*.csv'", "matches no file"),
        ("source: 'files:{0}/bad.txt.gz'", "bad.txt.gz: broken .gz file: "),
        ("source: stdlib, tokenizer: '{0}/none.json'", "none.json' should be 'bpe', 'bytes', or a tokenizer.json"),
        ("source: 'hf:{0}/none'", "none': no such folder"),
    ],
)
def test_bad_sources_are_one_line_exit_code_2_and_no_folder(train, tmp_path, data, message):
    (tmp_path / "bad.txt.gz").write_bytes(b"no gzip")
    code, _, err = train(data.format(tmp_path))
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_the_table_of_bad_configurations_in_the_docs_is_what_they_say():
    docs = Path(__file__).parent.parent.parent / "docs" / "data.md"
    assert bad_data.table() in docs.read_text()
