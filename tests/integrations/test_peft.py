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
