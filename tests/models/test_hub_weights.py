"""A folder with weights: never trained from scratch without a word; loaded whole, tied, in float32, or refused."""

import json

import pytest
import torch

from rlrs.data import vocabulary_size
from rlrs.models import at_width, build_model
from rlrs.models.hub_models import transformers_config, with_content
from rlrs.models.hub_weights import content_hash, fetched
from rlrs.settings import ConfigError, DataConfig, HubConfig

transformers = pytest.importorskip("transformers")
V = 300


def save(folder, *, tied=False, vocab_size=V, dtype=torch.float32):
    """A tiny Llama with weights unlike any fresh ones, and its folder."""
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=vocab_size,
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.to(dtype).save_pretrained(folder)
    return model


def test_a_folder_with_weights_is_refused_until_it_is_said_what_to_do_with_them(tmp_path):
    save(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds weights \(model\.safetensors\): say weights: load, .* or weights: random"
    ):
        transformers_config(HubConfig(hub=str(tmp_path)))
    assert (
        transformers_config(HubConfig(hub=str(tmp_path / "config.json"))).model_type == "llama"
    )  # the config alone was named


@pytest.mark.parametrize("tied", [False, True])
def test_loaded_weights_are_those_of_the_folder_and_stay_tied(tmp_path, tied):
    saved = save(tmp_path, tied=tied).eval()
    model = build_model(HubConfig(hub=str(tmp_path), weights="load"), V)
    assert model.training
    loaded = dict(model.model.named_parameters())
    assert loaded.keys() == dict(saved.named_parameters()).keys()
    for name, weight in saved.named_parameters():
        assert torch.equal(weight, loaded[name])
    assert (model.model.lm_head.weight is model.model.get_input_embeddings().weight) == tied
    tokens = torch.randint(V, (2, 9))
    torch.testing.assert_close(model.eval()(tokens).logits, saved(tokens).logits)


def test_weights_of_lower_precision_are_loaded_in_float32(tmp_path):
    save(tmp_path, dtype=torch.bfloat16)
    model = build_model(HubConfig(hub=str(tmp_path), weights="load"), V)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_random_takes_the_architecture_alone(tmp_path):
    saved = save(tmp_path)
    model = build_model(HubConfig(hub=str(tmp_path), weights="random"), 280)
    assert model.model.get_input_embeddings().weight.shape == (280, 16)
    assert not torch.equal(model.model.model.norm.weight, saved.model.norm.weight)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_for_another_vocabulary_are_refused_in_one_line(tmp_path, device):
    save(tmp_path, vocab_size=2_000)
    config = HubConfig(hub=str(tmp_path), weights="load")
    for vocab_size in (300, 2_001):
        with torch.device(device), pytest.raises(ConfigError) as error:
            build_model(config, vocab_size)
        assert f"for a vocabulary of 2000 entries, and the data's tokenizer has {vocab_size}; name the" in str(
            error.value
        )
    with torch.device(device):
        model = build_model(config, 1_990)  # a table padded to a round size
    assert model.model.get_input_embeddings().weight.shape == (2_000, 16)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"num_hidden_layers": 3}, "missing in its weights: model.layers.2."),
        ({"num_hidden_layers": 1}, "unexpected in its weights: model.layers.1."),
        ({"intermediate_size": 32}, "its weights cannot be loaded|mismatched in its weights"),
    ],
)
def test_weights_that_do_not_fit_the_model_are_refused_in_one_line(tmp_path, overrides, why):
    save(tmp_path)
    with pytest.raises(ConfigError, match=why) as error:
        build_model(HubConfig(hub=str(tmp_path), weights="load", overrides=overrides), V)
    assert "\n" not in str(error.value)


def test_damaged_weights_are_refused_in_one_line(tmp_path):
    save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"its weights cannot be loaded: .") as error:
        build_model(HubConfig(hub=str(tmp_path), weights="load"), V)
    assert "\n" not in str(error.value)


def test_there_is_nothing_to_load_by_the_name_of_a_type_or_without_weights(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for hub in ("llama", str(tmp_path), str(tmp_path / "config.json")):
        with pytest.raises(ValueError, match=r"weights: load needs a local folder with a model\.safetensors"):
            transformers_config(HubConfig(hub=hub, weights="load"))


def test_a_folder_without_weights_is_refused_until_it_is_said_that_it_starts_from_scratch(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"is a folder without weights: say weights: random"):
        transformers_config(HubConfig(hub=str(tmp_path)))
    said = HubConfig(hub=str(tmp_path), weights="random")
    assert transformers_config(said).model_type == "llama"
    read = with_content(said)
    assert (read.hub, read.weights) == ("llama", None)
    assert with_content(read) == read


def test_a_name_on_the_hub_is_a_folder_once_it_is_fetched(tmp_path, monkeypatch):
    from huggingface_hub import constants

    place = tmp_path / "models--our--tiny"
    save(place / "snapshots" / "a1")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetched.cache_clear()
    found = with_content(HubConfig(hub="our/tiny", weights="load"))
    assert found.hub == str(place / "snapshots" / "a1")
    with pytest.raises(ConfigError, match=r"'our/other': no folder of that name here, and not fetched from the hub: ."):
        with_content(HubConfig(hub="our/other", weights="load"))
    with pytest.raises(ConfigError, match=r"data.tokenizer='our/tiny': no tokenizer in it"):
        vocabulary_size(DataConfig(tokenizer="our/tiny"))


def test_loaded_weights_are_of_one_width(tmp_path):
    save(tmp_path)
    with pytest.raises(ConfigError, match="weights: load is of one width"):
        at_width(HubConfig(hub=str(tmp_path), weights="load"), 8)


def test_the_content_hash_is_of_what_is_used_wherever_it_is(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name)
    both = {content_hash(tmp_path / name, weights=True) for name in ("a", "b")}
    assert len(both) == 1
    config_alone = content_hash(tmp_path / "a", weights=False)
    path = tmp_path / "a" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert content_hash(tmp_path / "a", weights=True) not in both
    assert content_hash(tmp_path / "a", weights=False) == config_alone
    config = tmp_path / "a" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))
    assert content_hash(tmp_path / "a", weights=False) != config_alone


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    plain = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(plain), encoding="utf-8-sig")
    assert HubConfig(hub=str(tmp_path)).hub == str(tmp_path)
