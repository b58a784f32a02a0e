"""A study made out and checked before anything runs."""

import json
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrs.ratios import Ratios
from rlrs.search import EngineError
from rlrs.settings import ConfigError, ModelConfig, SearchConfig, StudyConfig, changing, difference, fingerprint
from rlrs.study import plan, resolve

TINY = {"d_model": 8, "n_layers": 1, "n_heads": 2}


def study(**changes):
    """A small study; `search__lr=...` changes a setting within a section."""
    plain = {
        "name": "s",
        "data": {"tokenizer": "bytes", "sequence_length": 16},
        "training": {"eval_tokens": 256},
        "proxy": {"model": TINY, "steps": 8, "batch_size": 4},
        "target": {"model": {**TINY, "d_model": 16}, "steps": 10, "batch_size": 4},
        "search": {"trials": 8, "retest": {"points": 0}},
    }
    for name, value in changes.items():
        *sections, key = name.split("__")
        at = plain
        for section in sections:
            at = at.setdefault(section, {})
        at[key] = value
    return StudyConfig.model_validate(plain)


def test_a_resolved_study_stays_as_it_is():
    once = resolve(study(search__start="paper-dense"))
    assert resolve(once) == once == study(search__start="paper-dense")


def test_a_scaled_target_becomes_a_model():
    resolved = resolve(study(target={"scale": 8, "steps": 10, "batch_size": 4}))
    assert resolved.target.model == ModelConfig(d_model=16, n_layers=2, n_heads=4)
    assert resolved.target.scale is None


def test_the_ratios_of_a_file_are_read_once_and_the_place_of_the_file_is_nothing(tmp_path):
    here, there = tmp_path / "a.yaml", tmp_path / "b.yaml"
    for path in (here, there):
        Ratios({"embedding": (5.0, 0.5)}).save(path)
    first, second = (resolve(study(search__start=str(path))) for path in (here, there))
    assert first.search.start == {"embedding": {"start": 5.0, "end": 0.5}}
    assert fingerprint(first) == fingerprint(second)
    Ratios({"embedding": (4.0, 0.5)}).save(there)
    assert fingerprint(resolve(study(search__start=str(there)))) != fingerprint(first)
    here.unlink()
    assert resolve(first) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search__space": {"atention.start": "fixed"}}, "search.space: no parameter 'atention.start'; did you mean"),
        ({"search__method": "genetic"}, "search.method: no method 'genetic'; there are response-surface, local"),
        ({"search__method": "x" * 100_000}, "search.method: no method 'xxx"),
        ({"search__method": "optuna.samplers.Nope"}, "search.method: cannot import 'optuna.samplers.Nope'"),
        ({"search__options": {"first_move": 99}}, "search.options.first_move: should be a factor above 1"),
        ({"search__start": "none.yaml"}, "search.start: none.yaml: cannot be read: No such file"),
        ({"search__start": "paper-moe"}, "search.start: ratios name router, experts, which the proxy does not have"),
        ({"search__start": {"embedding": -1}}, "search.start: embedding: start should be 0 or more, not -1"),
        ({"search__fidelity": {"width": 7}}, "search.fidelity: width should be a multiple of the head size 4, not 7"),
        ({"training__accumulate": 3}, "proxy: batch_size=4 should be a multiple of training.accumulate=3"),
        (
            {"training__eval_tokens": 32},
            "training.eval_tokens: 32 should be a batch of the target or more, 4 x 16 = 64",
        ),
        (
            {"training__component_weight_decay": {"router": 0.1}},
            "training.component_weight_decay: the proxy has no 'router'; it has embedding",
        ),
        ({"data__tokenizer": "not/to/be/found"}, "data.tokenizer='not/to/be/found' should be 'bpe', 'bytes'"),
        (
            {"search__space": {"batch_size": "search"}, "training__accumulate": 2},
            "search.space.batch_size: cannot be searched with training.accumulate",
        ),
        ({"search__start": {"embedding": 0}}, "search.space.embedding.start: starts at 0, and a search moves it by"),
        (
            {"training__final_fraction": 0},
            "final_fraction: starts at 0, and a search moves it by factors: should start",
        ),
        (
            {"training__weight_decay": 0, "search__space": {"weight_decay": "search"}},
            "should start from 1e-06 to 10 (training.weight_decay), or be fixed",
        ),
        ({"search__lr": 1e-9}, "search.space.lr: starts at 1e-09"),
    ],
)
def test_what_cannot_run_is_one_line_with_its_place(changes, message):
    with pytest.raises(ConfigError) as caught:
        resolve(study(**changes))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_gpus_that_the_machine_does_not_have_are_refused():
    with pytest.raises(EngineError, match=r"too few for 10,000 workers with engine.gpus=1"):
        resolve(study(engine={"gpus": 1}, processes=10_000))


@pytest.mark.parametrize(
    "changes",
    [
        {"training__final_fraction": 0, "search__space": {"final_fraction": "fixed"}},
        {"search__start": {"embedding": 0}, "search__space": {"embedding": "fixed"}},
        {"training__weight_decay": 0, "search__space": {"weight_decay": {"start": 0.1}}},
        {"training__weight_decay": 0},
        {"training__betas": [0, 0.9], "search__space": {"beta1": "search"}},
    ],
)
def test_a_zero_that_no_search_moves_is_none_of_its_business(changes):
    resolve(study(**changes))


def hub(model):
    sizes = {"steps": 8, "batch_size": 4}
    return study(proxy={"model": model, **sizes}, target={"model": model, **sizes})


GPT2 = {"n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 16}


def test_the_ratio_of_a_tied_component_does_nothing_and_is_said_once(caplog):
    pytest.importorskip("transformers")
    tied = hub({"hub": "gpt2", "overrides": GPT2})
    tied = tied.model_copy(update={"search": tied.search.model_copy(update={"start": "paper-dense"})})
    resolved = resolve(tied)
    assert set(resolved.search.start) == {"embedding", "attention", "feed_forward"}
    resolve(resolved)
    assert [record.getMessage() for record in caplog.records] == [
        "search.start: the ratio of unembedding does nothing: it is tied to the embedding, whose ratio is that of both"
    ]


def test_a_table_of_positions_is_as_long_as_a_sequence():
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"proxy.model: has 8 positions, fewer than data.sequence_length=16"):
        resolve(hub({"hub": "gpt2", "overrides": {**GPT2, "n_positions": 8}}))


def test_a_config_json_counts_by_what_it_holds(tmp_path):
    pytest.importorskip("transformers")
    held = {"model_type": "gpt2", **GPT2, "_name_or_path": "x", "transformers_version": "4.1"}
    (tmp_path / "config.json").write_text(json.dumps(held))
    first = resolve(hub({"hub": str(tmp_path / "config.json")}))
    assert (first.proxy.model.hub, first.proxy.model.config) == ("gpt2", GPT2)
    (tmp_path / "moved").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({**held, "transformers_version": "5.0"}, indent=4))
    (tmp_path / "config.json").rename(tmp_path / "moved" / "config.json")
    assert resolve(first) == first
    assert resolve(hub({"hub": str(tmp_path / "moved"), "weights": "random"})) == first
    (tmp_path / "moved" / "config.json").write_text(json.dumps({**held, "n_layer": 2}))
    edited = resolve(hub({"hub": str(tmp_path / "moved"), "weights": "random"}))
    assert "n_layer is 1 there and 2 here" in difference(changing(first), changing(edited))


def test_a_study_as_it_is_written_to_its_folder_is_the_same_study():
    resolved = resolve(study(target={"scale": 8, "steps": 10, "batch_size": 4}, search__start={"norm": 2}))
    assert StudyConfig.model_validate(changing(resolved)) == resolved


COUNTS = st.integers(1, 40)


@settings(max_examples=15, deadline=None)
@given(
    st.builds(
        dict,
        trials=COUNTS,
        prune=st.sampled_from([0, 0.1]),
        method=st.sampled_from(["response-surface", "local", "optuna.samplers.RandomSampler"]),
        retest=st.builds(dict, points=st.integers(0, 3), seeds=st.integers(0, 3)),
        fidelity=st.none() | st.builds(dict, steps=st.floats(0.01, 0.99), verify=st.integers(1, 6)),
    )
)
def test_every_accepted_search_has_a_plan_and_every_other_one_line(search):
    accepted = SearchConfig(**search)
    given_study = study().model_copy(update={"search": accepted})
    rows = plan(given_study)
    assert [row.runs for row in rows] == [4 * accepted.trials, 20, 3 * (4 + 2 * 2)]
    assert rows[0].tokens == 4 * accepted.trials * 8 * 4 * 16
    refused = pytest.raises(ConfigError, match=r"^search.trials=\d+ leaves no run to search with")
    retests = search["retest"]["points"] * search["retest"]["seeds"]
    left = search["trials"] - (retests if 4 * retests <= search["trials"] else 0)
    left -= max(2, search["fidelity"]["verify"]) if search["fidelity"] else 0
    with refused if left < 1 else nullcontext():
        resolve(given_study)
