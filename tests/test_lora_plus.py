"""LoRA+ as ratios: B of every adapter at a factor of A's rate, as PEFT's own optimizer has it."""

import pytest
import torch

import rlrs

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from peft.optimizers import create_loraplus_optimizer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def lora(**options):
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), peft.LoraConfig(r=2, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def test_the_groups_are_those_of_peft():
    model = lora(target_modules="all-linear")
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    expected = {id(p): group["lr"] for group in theirs.param_groups for p in group["params"]}
    ratios = rlrs.lora_plus(model, 16)
    ours = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=1e-3, weight_decay=0.0))
    rlrs.RelativeLR(ours, ratios, total_steps=10)
    found = {id(p): group["lr"] for group in ours.param_groups for p in group["params"]}
    assert found == pytest.approx(expected, rel=1e-12)
    assert sorted(set(found.values())) == pytest.approx([1e-3, 16e-3])


def test_a_step_is_that_of_peft_bit_for_bit():
    losses = []
    tokens = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(1))
    for ours in (True, False):
        model = lora(target_modules=["q_proj", "up_proj"])
        if ours:
            ratios = rlrs.lora_plus(model, 16)
            optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=1e-2, weight_decay=0.0))
            rlrs.RelativeLR(optimizer, ratios, total_steps=10, final_fraction=1.0)
        else:
            optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16)
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == losses[1]


def test_ratios_of_the_component_are_those_of_both_matrices():
    model = lora(target_modules=["q_proj", "up_proj"])
    ratios = rlrs.lora_plus(model, 4, {"attention": (2.0, 0.5)})
    assert ratios["attention"].knots == ((0.0, 2.0), (1.0, 0.5))
    assert ratios["attention/lora_B"].knots == ((0.0, 8.0), (1.0, 2.0))
    assert ratios["feed_forward/lora_B"].knots == ((0.0, 4.0), (1.0, 4.0))
    assert ratios.provenance["lora_plus"] == 4
    assert "norm/lora_B" not in ratios


def test_what_cannot_be_told_apart_is_one_line():
    with pytest.raises(ValueError, match="Linear has no LoRA adapters, whose two matrices"):
        rlrs.lora_plus(torch.nn.Linear(2, 2), 4)
    model = lora(target_modules=["q_proj"])
    with pytest.raises(ValueError, match="factor should be above 0, not 0"):
        rlrs.lora_plus(model, 0)
    with pytest.raises(rlrs.PartitionError, match="'feed_forward/lora_B' holds no parameter: feed_forward has no LoRA"):
        rlrs.param_groups(model, {"feed_forward/lora_B": 2}, lr=1.0)
    with pytest.raises(rlrs.PartitionError, match=r"'attention/lora_A' should look like .*attention/lora_B"):
        rlrs.param_groups(model, {"attention/lora_A": 2}, lr=1.0)
    with pytest.raises(rlrs.PartitionError, match="both by layer and by LoRA's B; choose one"):
        rlrs.param_groups(model, {"attention/lora_B": 2, "attention/layer.0": 2}, lr=1.0)
