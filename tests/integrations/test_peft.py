"""LoRA fine-tuning with PEFT and TRL."""

import pytest
import torch
from running import STEPS, differing_steps, largest_error, needs, run

import rlrs

needs("peft", "trl", "transformers", extra="trl")
# PEFT asks transformers for a property that the latter is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
RATIOS = {"attention": (1.0, 0.2), "feed_forward": (0.5, 1.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("peft")


@pytest.fixture(scope="module")
def whole(folder):
    return run("peft_finetune", folder)[0]


def test_every_adapter_has_the_rate_of_the_component_it_adapts(whole, record_property):
    assert set(whole[0]["rates"]) == {"attention", "feed_forward"}
    error = largest_error(whole, ratios=RATIOS)
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_a_resumed_run_is_the_uninterrupted_one(folder, whole, record_property):
    resumed = run("peft_finetune", folder, resume=True)[0]
    assert len(resumed) == len(whole) == STEPS
    differing = differing_steps(resumed[STEPS // 2 :], whole)
    record_property("measured", f"{differing} steps differ")
    assert differing == 0


def test_the_log_has_the_adapted_components(whole, record_property):
    shown = [f"learning_rate/{name}" for name in whole[0]["rates"]]  # the example records what the Trainer logged
    assert shown == ["learning_rate/attention", "learning_rate/feed_forward"]
    record_property("measured", ", ".join(f"`{key}`" for key in shown))


@pytest.mark.long
def test_two_processes_have_the_rates_of_one(folder, whole, record_property):
    two = run("peft_finetune", folder / "two", ranks=2)
    for lines in two:
        assert [line["rates"] for line in lines] == [line["rates"] for line in whole]
    record_property("measured", f"equal to one process in {len(two[1])} steps")


def lora(**options):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, **options))


def components(groups):
    return {group["name"]: len(group["params"]) for group in groups}


def test_adapters_follow_their_layer_or_are_a_component_of_their_own():
    model = lora(target_modules=["q_proj", "up_proj"])
    follow = rlrs.param_groups(model, {"attention": 2, "feed_forward": 1}, lr=1.0)
    assert components(follow) == {"attention": 2, "feed_forward": 2}
    own = rlrs.param_groups(model, {"adapter": 2}, lr=1.0, parts=rlrs.partition(model, adapters="own"))
    assert components(own) == {"adapter": 4}


def test_modules_to_save_are_trained_with_their_own_component():
    model = lora(target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert components(rlrs.param_groups(model, {}, lr=1.0)) == {"attention": 2, "unembedding": 1}


def test_a_ratio_for_a_frozen_component_is_no_error_and_for_an_absent_one_is():
    model = lora(target_modules=["q_proj"])
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, {"embedding": 5, "attention": 2}, lr=1.0))
    scheduler = rlrs.RelativeLR(optimizer, {"embedding": 5, "attention": 2}, total_steps=5)
    assert scheduler.rates() == {"attention": 2.0}
    with pytest.raises(rlrs.RatiosError, match="name router"):
        rlrs.param_groups(model, {"router": 2}, lr=1.0)


def test_a_frozen_base_is_left_alone_and_the_adapters_move_at_their_rates():
    model = lora(target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(rlrs.param_groups(model, {"attention": 4}, lr=0.5))
    rlrs.RelativeLR(optimizer, {"attention": 4}, total_steps=5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = 0.0 if "lora" not in name else 2.0 if "q_proj" in name else 0.5
        torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, moved))


# Every method: what PEFT adds is told by where it stands.

METHODS = {
    "AdaLoraConfig": {"total_step": 10, "tinit": 1, "tfinal": 1},
    "AdaptionPromptConfig": {"target_modules": None, "adapter_len": 4, "adapter_layers": 1},
    "CPTConfig": {"target_modules": None, "cpt_token_ids": [1, 2], "cpt_tokens_type_mask": [1, 1]},
    "FourierFTConfig": {"n_frequency": 10},
    "IA3Config": {"feedforward_modules": ["down_proj"]},
    "LNTuningConfig": {"target_modules": ["input_layernorm"]},
    "MultitaskPromptTuningConfig": {"target_modules": None, "num_virtual_tokens": 4, "num_tasks": 2},
    "OFTConfig": {"r": 0, "oft_block_size": 4},
    "PrefixTuningConfig": {"target_modules": None, "num_virtual_tokens": 4},
    "PromptEncoderConfig": {"target_modules": None, "num_virtual_tokens": 4},
    "PromptTuningConfig": {"target_modules": None, "num_virtual_tokens": 4},
    "RoadConfig": {"group_size": 4},
    "TrainableTokensConfig": {"target_modules": None, "token_indices": [1, 2]},
    "VBLoRAConfig": {"num_vectors": 8, "vector_length": 8},
    "WaveFTConfig": {"n_frequency": 10},
}
"""Settings without which a method cannot be made; of the others, the layers to adapt and a rank, where there is one."""


def methods():
    import peft

    no_methods = {"PeftConfig", "PromptLearningConfig"}
    return sorted(name for name in dir(peft) if name.endswith("Config") and name not in no_methods)


def adapted(name):
    """A tiny model with this method, or None if it cannot be made of a tiny model."""
    import inspect

    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    config_class = getattr(peft, name)
    takes = inspect.signature(config_class).parameters
    defaults = {"target_modules": ["q_proj", "down_proj"], "r": 2, "block_size": 4, "task_type": "CAUSAL_LM"}
    settings = {key: value for key, value in {**defaults, **METHODS.get(name, {})}.items() if key in takes}
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    for left_out in ((), ("block_size",), ("r",)):
        try:
            kept = {key: value for key, value in settings.items() if key not in left_out}
            return peft.get_peft_model(LlamaForCausalLM(config), config_class(**kept))
        except Exception:  # whatever a method of another library asks for
            continue
    return None


@pytest.mark.filterwarnings("ignore")
def test_whatever_method_adds_and_trains_is_an_adapter_and_nothing_else_is(record_property):
    made, wrong = [], {}
    for name in methods():
        if (model := adapted(name)) is None:
            continue
        made.append(name)
        own = rlrs.partition(model, adapters="own").component_of()
        follow = rlrs.partition(model)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        wrong |= {f"{name}: {n}": own[n] for n in trained if own[n] != "adapter"}
        plain = {n for n in own if n.endswith(("k_proj.weight", "lm_head.weight", "model.norm.weight"))}
        wrong |= {f"{name}: {n}": own[n] for n in plain if own[n] == "adapter" and "shadow" not in n}
        wrong |= {f"{name}, follow: {n}": "other" for n in trained & set(follow.unsure)}
    assert wrong == {}
    assert len(made) > 35
    record_property("measured", ", ".join(made))


def test_copies_and_biases_that_a_method_trains_are_the_models_own():
    model = lora(target_modules=["q_proj"], modules_to_save=["lm_head"], bias="lora_only")
    parts = rlrs.partition(model, adapters="own")
    assert len(parts["adapter"]) == 2
    assert len(parts["unembedding"]) == 2


def test_tokens_that_are_trained_beside_lora_are_adapters_and_their_table_is_not():
    model = lora(target_modules=["q_proj"], trainable_token_indices=[1, 2])
    parts = rlrs.partition(model, adapters="own")
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(parts["adapter"]) == trained
    assert any("embed_tokens" in name for name in parts["embedding"])


def test_layer_decay_on_an_adapted_model_is_no_error_for_what_is_frozen():
    model = lora(target_modules=["q_proj"])
    ratios = rlrs.layer_decay(model, 0.8)
    groups = rlrs.param_groups(model, ratios, lr=1.0)
    rlrs.RelativeLR(torch.optim.SGD(groups), ratios, total_steps=5)
    assert {group["name"] for group in groups} == {"attention/layer.0"}
