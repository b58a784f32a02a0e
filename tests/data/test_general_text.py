"""General text beside the data: its own tokens by the same tokenizer, a part of a run's identity."""

import pytest

from rlrs.data import TokenData, prepare
from rlrs.settings import ConfigError, DataConfig


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "task.txt").write_text("abcd " * 400)
    (tmp_path / "general.txt").write_text("the old words " * 300)
    return tmp_path


def config(texts, general=True, **options):
    plain = {"source": f"files:{texts}/task.txt", "tokenizer": "bytes", "sequence_length": 16, **options}
    if general:
        plain["general"] = {"source": f"files:{texts}/general.txt"}
    return DataConfig.model_validate(plain)


def test_it_has_tokens_of_its_own_and_makes_another_hash(texts):
    alone = prepare(config(texts, general=False), texts / "alone")
    both = prepare(config(texts), texts / "both")
    assert alone.general is None
    assert both.general is not None
    assert bytes(both.general.valid_batches(1, 16)[0][0][0].tolist()).decode().count("the") > 0
    assert both.hash == both.summary["hash"] != alone.hash
    assert both.summary["general_tokens"] == both.general.valid_tokens
    assert TokenData.load(texts / "both").hash == both.hash
    assert both.valid_tokens == alone.valid_tokens


def test_a_vocabulary_is_learnt_from_the_task_and_used_for_both(texts):
    data = prepare(config(texts, tokenizer="bpe", vocab_size=270), texts / "data")
    assert data.general is not None
    assert (data.vocab_size, data.general.vocab_size) == (data.vocab_size, data.vocab_size)
    own = prepare(config(texts, general=False, tokenizer="bpe", vocab_size=270), texts / "own")
    assert (texts / "data" / "tokenizer.json").read_bytes() == (texts / "own" / "tokenizer.json").read_bytes()
    assert own.vocab_size == data.vocab_size


def test_tokens_that_studies_share_have_it_too(texts):
    shared = config(texts, folder=str(texts / "shared"))
    data = prepare(shared, texts / "data")
    assert data.general is not None
    assert data.hash == prepare(config(texts), texts / "own").hash


def test_general_text_that_is_no_longer_asked_for_is_gone(texts):
    prepare(config(texts), texts / "data")
    assert prepare(config(texts, general=False), texts / "data").general is None


def test_what_is_wrong_with_it_is_said_with_its_place(texts):
    with pytest.raises(ConfigError, match=r"^data\.general: .*none\.txt"):
        prepare(config(texts).model_copy(update={"general": missing(texts)}), texts / "data")
    with pytest.raises(ValueError, match="should be 'stdlib', 'files:GLOB'"):
        DataConfig.model_validate({"general": {"source": "nowhere"}})
    with pytest.raises(ValueError, match="may_rise"):
        DataConfig.model_validate({"general": {"source": "stdlib", "may_rise": -1}})


def missing(texts):
    return config(texts).general.model_copy(update={"source": f"files:{texts}/none.txt"})
