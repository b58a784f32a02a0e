"""Vocabularies: learnt, bytes, or from a file; marks, padding and special tokens leave no trace in a text's tokens."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from rlrs.data import reading, vocabulary_size
from rlrs.data.tokenizer import END_OF_TEXT, from_path, identity, learn, of_bytes
from rlrs.settings import ConfigError, DataConfig

TEXTS = ["the cat sat on the mat", "äöü 漢字 \U0001f600", f"a {END_OF_TEXT} b", "", " \n\n\t x"]


def words(**settings):
    """A tokenizer as others write them: a mark at the beginning, padding, truncation."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = ["<unk>", "<s>", "</s>", *settings.get("more", [])]
    tokenizer.train_from_iterator(["the cat sat on the mat"], trainers.WordLevelTrainer(special_tokens=marks))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(max_length=3)
    return tokenizer


def test_a_learnt_vocabulary_gives_back_every_text():
    encoder = learn(TEXTS, 300)
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert encoder.tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == text
        assert encoder.end not in tokens, "the mark in a text is text"
    assert encoder.tokenizer.id_to_token(encoder.end) == END_OF_TEXT


def test_a_document_in_pieces_has_the_tokens_of_the_whole(monkeypatch):
    source = Path(inspect.getsourcefile(inspect)).read_text()
    encoder = learn([source], 1_000)
    (whole,) = encoder.encode([source])
    for piece in (300, 1_000, 30_000):
        monkeypatch.setattr(reading, "PIECE", piece)
        pieces = [piece.text for piece in reading.split_pieces(source)]
        assert len(pieces) > len(source) / piece
        assert np.array_equal(np.concatenate(encoder.encode(pieces)), whole)


def test_bytes_are_their_own_tokens_and_the_library_agrees():
    encoder = of_bytes()
    assert encoder.size == 257
    assert encoder.tokenizer.id_to_token(256) == END_OF_TEXT
    encoder.tokenizer.encode_special_tokens = True
    everything = "".join(map(chr, range(0x500))) + "".join(TEXTS)
    for text, tokens in zip([*TEXTS, everything], encoder.encode([*TEXTS, everything]), strict=True):
        assert tokens.tolist() == list(text.encode())
        assert encoder.tokenizer.encode(text).ids == tokens.tolist()
        assert encoder.tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == text


@pytest.mark.parametrize("folder", [False, True])
def test_a_tokenizer_file_is_taken_without_its_padding_truncation_and_marks(tmp_path, folder):
    words().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    encoder = from_path(str(tmp_path if folder else tmp_path / "tokenizer.json"), None)
    (tokens,) = encoder.encode(["the cat sat on the mat"])
    assert [encoder.tokenizer.id_to_token(token) for token in tokens] == ["the", "cat", "sat", "on", "the", "mat"]
    assert encoder.tokenizer.id_to_token(encoder.end) == "</s>"
    assert np.all(encoder.encode(["</s>"])[0] != encoder.end)


def test_a_transformers_folder_without_a_tokenizer_json_is_taken(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    (tmp_path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate([*alphabet, "<|endoftext|>"])}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    encoder = from_path(str(tmp_path), None)
    assert encoder.tokenizer.decode(encoder.encode(["the mat"])[0].tolist()) == "the mat"
    assert encoder.end == 256


@pytest.mark.parametrize(
    ("content", "end_token", "message"),
    [
        (
            None,
            None,
            "should be 'bpe', 'bytes', or a tokenizer.json or a folder with one; there is nothing of that name",
        ),
        ("{}", None, "not a tokenizer.json: "),
        (
            "words",
            None,
            "it does not say which token ends a text; name one with data.end_token, such as <unk>, <s>, </s>",
        ),
        ("words", "<eos>", "it has no token '<eos>'; name one with data.end_token, such as"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path, content, end_token, message):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(words().to_str() if content == "words" else content)
    with pytest.raises(ConfigError) as error:
        from_path(str(path), end_token)
    assert f"data.tokenizer={str(path)!r}: " in str(error.value) or "should be" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_no_tokenizer(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer in it"):
        from_path(str(tmp_path), None)


def test_the_identity_is_of_the_files_and_the_size_is_known_before_any_text(tmp_path):
    words().save(str(tmp_path / "tokenizer.json"))
    settings = DataConfig(tokenizer=str(tmp_path), end_token="</s>")
    before = identity(settings)
    assert vocabulary_size(settings) == 8  # three marks and the, cat, sat, on, mat
    words(more=["<more>"]).save(str(tmp_path / "tokenizer.json"))
    assert identity(settings) != before
    assert vocabulary_size(settings) == 9
    assert vocabulary_size(DataConfig(tokenizer="bytes")) == 257
    assert vocabulary_size(DataConfig(vocab_size=700)) == 700


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": "bytes", "vocab_size": 500}, "vocab_size=500 is for tokenizer 'bpe'; 'bytes' has its own size"),
        ({"end_token": "</s>"}, "end_token='</s>' is for a tokenizer given by path; bpe has its own"),
        ({"config_name": "en"}, "config_name='en' is for 'hf:' sources only"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)
