"""LoRA in the reference trainer: PEFT's adapters on loaded weights; the rest stays as it is."""

import math
from dataclasses import replace

import pytest
import torch

from rlrs.models import build_model, count_parameters, training_flops
from rlrs.settings import ConfigError, HubConfig, LoraConfig, TrainingConfig
from rlrs.training import RunSpec, train

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
# PEFT asks transformers for a property that the latter is about to drop; ours does so without a word.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
V = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=V
    )
    torch.manual_seed(5)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def hub(folder, **options):
    return HubConfig(hub=folder, weights="load", lora=LoraConfig(**options))


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_adapters_stand_where_peft_puts_them_and_begin_without_an_effect(folder):
    whole = build_model(HubConfig(hub=folder, weights="load"), V).eval()
    model = build_model(hub(folder, r=4), V).eval()
    expected = peft.get_peft_model(
        transformers.LlamaForCausalLM.from_pretrained(folder),
        peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    assert trained(model.model) == {name.removeprefix("base_model.model.") for name in trained(expected)}
    assert len(trained(model)) == 2 * 2 * 7  # two halves, two layers, seven matrices in each
    tokens = torch.randint(V, (2, 9))
    torch.testing.assert_close(model(tokens, tokens).loss, whole(tokens, tokens).loss)
    assert model(tokens).logits.shape == (2, 9, V)


def test_the_scale_is_alpha_over_r(folder):
    model = build_model(hub(folder, r=4, alpha=2, target_modules=["q_proj"]), V)
    layer = model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.ones_(layer.lora_B["default"].weight)
    x = torch.randn(3, 16)
    added = (x @ layer.lora_A["default"].weight.T).sum(-1, keepdim=True).expand(3, 16) * 2 / 4
    torch.testing.assert_close(layer(x), layer.base_layer(x) + added)


def test_modules_to_save_are_trained_whole(folder):
    model = build_model(hub(folder, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), V)
    assert sum("modules_to_save" in name for name in trained(model)) == 2
    tokens = torch.randint(V, (2, 9))
    assert model(tokens, tokens).loss.isfinite()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"target_modules": ["no_proj"]}, r"lora\.target_modules=\('no_proj',\): PEFT refuses: ."),
        ({"modules_to_save": ["no_head"]}, "lora.modules_to_save: the model has no module 'no_head'"),
    ],
)
def test_a_layer_that_is_not_there_is_one_line(folder, options, why):
    with pytest.raises(ConfigError, match=why) as error:
        build_model(hub(folder, **options), V)
    assert "\n" not in str(error.value)


def test_adapters_on_weights_that_are_not_loaded_are_refused(folder):
    with pytest.raises(ValueError, match="lora adapts weights that are loaded: say weights: load, not random"):
        HubConfig(hub=folder, weights="random", lora=LoraConfig())
    with pytest.raises(ValueError, match="say weights: load, not None"):
        HubConfig(hub="llama", lora=LoraConfig())


def test_a_model_without_memory_has_the_same_sizes(folder):
    config = hub(folder, r=4)
    with torch.device("meta"):
        meta = build_model(config, V)
    assert count_parameters(meta) == count_parameters(build_model(config, V))
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}


def test_frozen_weights_cost_no_gradient_of_their_own(folder):
    with torch.device("meta"):
        whole, model = build_model(HubConfig(hub=folder, weights="load"), V), build_model(hub(folder, r=4), V)
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 24) + 16 * V
    adapters = 2 * 4 * (4 * (16 + 16) + 3 * (16 + 24))
    assert training_flops(whole, 8) - training_flops(model, 8) == 6 * matrices - (
        4 * (matrices + adapters) + 2 * adapters
    )


def test_a_run_moves_the_adapters_alone_and_resumes_bit_for_bit(folder, tmp_path):
    data = tokens()
    run = spec(hub(folder, r=4, dropout=0.1), data)
    whole = train(run, data, tmp_path / "whole")
    assert whole.status == "finished"
    from safetensors.torch import load_file

    (last,) = (tmp_path / "whole" / "checkpoints").glob("step-*6")
    kept = load_file(last / "rank-0.safetensors")
    weights = transformers.LlamaForCausalLM.from_pretrained(folder).state_dict()
    assert torch.equal(
        kept["model.model.model.layers.0.self_attn.q_proj.base_layer.weight"],
        weights["model.layers.0.self_attn.q_proj.weight"],
    )
    assert kept["model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"].abs().max() > 0

    class EndedError(Exception):
        pass

    def end(step, loss):
        if step == 4:
            raise EndedError

    with pytest.raises(EndedError):
        train(run, data, tmp_path / "killed", progress=end)
    resumed = train(run, data, tmp_path / "killed")
    assert (resumed.score, resumed.valid_loss) == (whole.score, whole.valid_loss)


def test_adapters_are_a_part_of_a_runs_identity(folder):
    data = tokens()
    assert spec(hub(folder, r=4), data).id != spec(hub(folder, r=8), data).id
    assert spec(HubConfig(hub=folder, weights="load"), data).id != spec(hub(folder, r=8), data).id


def test_weights_that_are_sure_of_what_is_wrong_for_a_text_are_not_called_diverged(folder, tmp_path):
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(200.0)
    model.save_pretrained(tmp_path / "sure")
    data = tokens()
    sure = HubConfig(hub=str(tmp_path / "sure"), weights="load")
    run = spec(sure, data)
    result = train(run, data)
    assert result.status == "finished"
    assert result.score > 1.5 * math.log(V)
    limited = replace(run, training=run.training.model_copy(update={"loss_limit": 1.5 * math.log(V)}))
    assert train(limited, data).status == "diverged"


def tokens():
    import numpy as np

    from rlrs.data import TokenData

    stream = np.random.default_rng(0).integers(V, size=4000)
    return TokenData(train=stream, valid=stream, sequence_length=16, vocab_size=V, hash="random")


def spec(model, data):
    training = TrainingConfig(eval_tokens=64, checkpoint_every=2, log_every=2)
    return RunSpec(
        model=model, training=training, steps=6, batch_size=4, seed=0, lr=1e-2, final_fraction=0.1,
        ratios={"attention": [(0.0, 2.0), (1.0, 0.5)]}, data_hash=data.hash,
    )  # fmt: skip
