"""`hf:`: local folders, saved data sets and the cache, streamed, without a network."""

import shutil

import pytest
from corpora import both, config, documents_of, write_jsonl, write_parquet

from rlrs.data import prepare
from rlrs.settings import ConfigError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path, stories):
    """Three shards to train on, one to validate on."""
    for number in range(3):
        write_jsonl(tmp_path / "set" / "data" / f"train-{number}.jsonl.gz", stories[number * 50 : number * 50 + 50])
    write_jsonl(tmp_path / "set" / "data" / "validation.jsonl", stories[150:])
    return tmp_path / "set"


def test_a_folder_of_files_is_a_data_set(folder, tmp_path, stories):
    data = prepare(config(f"hf:{folder}"), tmp_path / "data")
    assert both(tmp_path / "data") == sorted(stories[:150])
    assert data.summary["files"] == 3
    assert data.summary["valid_documents"] > 5
    same = prepare(config(f"files:{folder}/data/train*"), tmp_path / "files")
    assert same.hash == data.hash  # the same documents, split by the same rule


def test_a_split_of_its_own_to_validate_on(folder, tmp_path, stories):
    prepare(config(f"hf:{folder}", valid_split="validation"), tmp_path / "data")
    assert documents_of(tmp_path / "data", "train") == stories[:150]
    assert documents_of(tmp_path / "data", "valid") == stories[150:]


def test_max_bytes_takes_the_first_documents_of_every_shard(folder, tmp_path, stories):
    data = prepare(config(f"hf:{folder}", max_bytes=6_000), tmp_path / "data")
    assert 5_000 < data.summary["bytes"] <= 6_000
    texts = both(tmp_path / "data")
    assert {stories[0], stories[50], stories[100]} <= set(texts)


def test_parquet_and_saved_data_sets(tmp_path, stories):
    for number in range(2):
        write_parquet(tmp_path / "set" / f"part-{number}.parquet", stories[number * 100 : number * 100 + 100], "body")
    first = prepare(config(f"hf:{tmp_path}/set", text_field="body"), tmp_path / "data")
    assert both(tmp_path / "data") == sorted(stories)
    datasets.Dataset.from_dict({"body": stories}).save_to_disk(tmp_path / "one")
    assert prepare(config(f"hf:{tmp_path}/one", text_field="body"), tmp_path / "data").hash == first.hash
    split = {
        "train": datasets.Dataset.from_dict({"body": stories}),
        "rest": datasets.Dataset.from_dict({"body": ["x"]}),
    }
    datasets.DatasetDict(split).save_to_disk(tmp_path / "dict")
    assert prepare(config(f"hf:{tmp_path}/dict", text_field="body"), tmp_path / "data").hash == first.hash


def test_a_data_set_that_was_loaded_once_is_found_in_the_cache_without_a_network(tmp_path, folder, stories):
    cache = tmp_path / "cache"
    datasets.load_dataset(str(folder), cache_dir=str(cache))
    (made,) = (cache / "set" / "default" / "0.0.0").glob("[0-9a-f]*[0-9a-f]")
    place = cache / "some___corpus" / "default" / "0.0.0" / made.name  # as for the hub's some/corpus
    shutil.copytree(made, place)
    for path in place.glob("set-*.arrow"):
        path.rename(path.with_name(path.name.replace("set-", "corpus-")))
    prepare(config("hf:some/corpus"), tmp_path / "data")
    assert both(tmp_path / "data") == sorted(stories[:150])
    shutil.rmtree(cache)  # and then not even that is needed
    assert prepare(config("hf:some/corpus"), tmp_path / "data").train_tokens


def test_prepared_data_of_a_folder_are_used_again_until_it_changes(folder, tmp_path, stories):
    first = prepare(config(f"hf:{folder}"), tmp_path / "data").hash
    told = []
    prepare(config(f"hf:{folder}"), tmp_path / "data", lambda done, total: told.append(done))
    assert told == []
    write_jsonl(folder / "data" / "train-3.jsonl", ["one more story\n" * 30])
    assert prepare(config(f"hf:{folder}"), tmp_path / "data").hash != first


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("hf:SET", {"split": "tran"}, "data.split='tran' is no split of 'hf:.*'; it has train, validation"),
        ("hf:SET", {"valid_split": "test"}, "data.valid_split='test' is no split of"),
        ("hf:SET", {"text_field": "body"}, "data.text_field='body' is no column of the data set; it has id, text"),
        ("hf:SET", {"text_field": "id"}, "the column 'id' holds int, not text"),
        ("hf:SET", {"config_name": "en"}, "BuilderConfig 'en' not found. Available: .'default'."),
        ("hf:/no/such/folder", {}, "data.source='hf:/no/such/folder': no such folder, looked for from /"),
        ("hf:no/such", {}, "data.source='hf:no/such': Couldn't reach 'no/such'.*; it should be a local folder, or"),
        ("hf:EMPTY", {}, "data.source='hf:.*/empty': "),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_in_one_line(folder, tmp_path, source, settings, message):
    (tmp_path / "empty").mkdir()
    source = source.replace("SET", str(folder)).replace("EMPTY", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=message) as error:
        prepare(config(source, **settings), tmp_path / "data")
    assert "\n" not in str(error.value)


def test_a_damaged_shard_is_refused_by_name_and_what_is_prepared_is_kept_or_left_out(folder, tmp_path, stories):
    path = folder / "data" / "train-1.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"train-1\.jsonl\.gz: .*; mend it, or leave such out") as error:
        prepare(config(f"hf:{folder}"), tmp_path / "data")
    assert "\n" not in str(error.value)
    data = prepare(config(f"hf:{folder}", damaged="skip"), tmp_path / "data")
    assert {*stories[:50], *stories[100:150]} <= set(both(tmp_path / "data"))
    assert len(data.summary["skipped"]) == 1
    assert data.summary["skipped"][0].startswith("train/1: from there on: ")
