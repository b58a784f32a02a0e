"""Whole parts of a model as components: towers and what joins them, text encoder and UNet, actor and critic."""

import pytest
import torch
from torch import nn

import rlrs
from architectures import SIZES, VISION, build, build_clip, build_llava, linear, named

transformers = pytest.importorskip("transformers")


def components(model, rules=()):
    return rlrs.partition(model, rules).component_of()


def at(found, path):
    return {component for name, component in found.items() if name.startswith(path)}


def qwen_vl(kind="Qwen2_5_VL"):
    text = {**SIZES, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32}
    if kind == "Qwen3VL":
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    with torch.device("meta"):
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config)


@pytest.mark.parametrize("kind", ["Qwen2_5_VL", "Qwen3VL"])
def test_the_merger_inside_qwens_vision_tower_is_the_connector(kind):
    found = components(qwen_vl(kind))
    merger = {name for name in found if "merger" in name}
    assert {found[name] for name in merger} == {"connector"}
    assert {c for n, c in found.items() if n.startswith("model.visual.") and n not in merger} == {"vision"}
    assert at(found, "model.language_model.") == {"embedding", "attention", "feed_forward", "norm"}


def test_a_query_transformer_and_a_projection_are_the_connector_of_blip_2():
    text = transformers.OPTConfig(
        vocab_size=96, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4, word_embed_proj_dim=32
    )
    qformer = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config=qformer | {"vocab_size": 96, "encoder_hidden_size": 32}, text_config=text
    )
    with torch.device("meta"):
        found = components(transformers.Blip2ForConditionalGeneration(config))
    assert at(found, "vision_model.") == {"vision"}
    assert at(found, "qformer.") == at(found, "language_projection.") == {"connector"}
    assert "connector" not in at(found, "language_model.")


@pytest.mark.parametrize("make", [build_llava, qwen_vl])
def test_vision_connector_and_language_model_have_one_rate_each(make):
    model = make()
    ratios = {"vision": 0.1, "connector": (5.0, 1.0), "language_model": 0.5}
    groups = rlrs.param_groups(model, ratios, lr=1e-3, weight_decay=0.1, rules=rlrs.tower_rules(model))
    rlrs.RelativeLR(torch.optim.AdamW(groups), ratios, total_steps=10)
    assert {group["component"]: group["lr"] for group in groups} == {
        "vision": pytest.approx(1e-4), "connector": pytest.approx(5e-3), "language_model": pytest.approx(5e-4)
    }  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    undecayed = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert {name for name in names.values() if "norm" in name or name.endswith("bias")} <= undecayed


def test_layers_of_a_tower_that_is_one_component_have_ratios_of_their_own():
    model = build_llava(text_layers=3, vision_layers=2)
    rules = rlrs.tower_rules(model)
    ratios = rlrs.layer_decay(model, {"vision_tower": 0.5}, {"vision": 0.1}, rules=rules)
    assert {name: ratio.start for name, ratio in ratios.items() if name.startswith("vision")} == {
        "vision": 0.1, "vision/below": 0.1 * 0.125, "vision/layer.0": 0.1 * 0.25, "vision/layer.1": 0.1 * 0.5
    }  # fmt: skip
    assert ratios["language_model"].start == 1.0


def test_encoder_and_decoder_are_components_and_the_table_that_they_share_stays():
    model = build("t5")
    found = components(model, rlrs.tower_rules(model))
    assert at(found, "encoder.") == {"encoder"}
    assert at(found, "decoder.") == {"decoder"}
    assert found["shared.weight"] == "embedding"


def unet(width=16, text=8):
    def resnet():
        convolutions = {f"conv{i}": nn.Conv2d(width, width, 3) for i in (1, 2)}
        return named(norm1=nn.GroupNorm(2, width), time_emb_proj=linear(width, width), **convolutions)

    def attention(inputs):
        projections = {"to_q": linear(width, width), "to_k": linear(inputs, width), "to_v": linear(inputs, width)}
        return named(**projections, to_out=nn.ModuleList([linear(width, width)]))

    def transformer():
        gate = nn.ModuleList([named(proj=linear(width, 8 * width)), nn.Dropout(), linear(4 * width, width)])
        block = named(attn1=attention(width), attn2=attention(text), ff=named(net=gate), norm1=nn.LayerNorm(width))
        blocks = nn.ModuleList([block])
        return named(norm=nn.GroupNorm(2, width), proj_in=linear(width, width), transformer_blocks=blocks)

    def part():
        return named(resnets=nn.ModuleList([resnet()]), attentions=nn.ModuleList([transformer()]))

    return named(
        conv_in=nn.Conv2d(4, width, 3),
        time_embedding=named(linear_1=linear(width, width), linear_2=linear(width, width)),
        down_blocks=nn.ModuleList([part(), part()]),
        mid_block=part(),
        up_blocks=nn.ModuleList([part(), part()]),
        conv_out=nn.Conv2d(width, 4, 3),
    )


def test_text_encoder_and_unet_are_components_of_a_diffusion_model():
    """As diffusers' text-to-image scripts train them: one rate for the UNet, a lower one for the text encoder."""
    model = nn.ModuleDict({"text_encoder": build("bert"), "unet": unet()})
    rules = rlrs.tower_rules(model)
    assert dict.fromkeys(components(model, rules).values()) == {"text_encoder": None, "unet": None}
    groups = rlrs.param_groups(model, {"text_encoder": 0.1}, lr=1e-4, rules=rules)
    assert {group["component"] for group in groups} == {"text_encoder", "unet"}


def test_actor_and_critic_are_named_by_their_paths_wrapped_or_not():
    mlps = {f"{name}_net": nn.Sequential(linear(4, 8), nn.Tanh(), linear(8, 8)) for name in ("policy", "value")}
    model = named(mlp_extractor=named(**mlps), action_net=linear(8, 2), value_net=linear(8, 1))
    for each in (model, nn.DataParallel(model)):
        rules = rlrs.tower_rules(each, "mlp_extractor.policy_net", "mlp_extractor.value_net")
        parts = rlrs.partition(each, rules)
        assert [len(parts[name]) for name in ("policy_net", "value_net")] == [2, 2]
    rules = rlrs.tower_rules(model, "mlp_extractor.policy_net", "action_net", "value_net")
    ratios = {"policy_net": 0.3, "action_net": 0.3, "value_net": (3.0, 1.0)}
    groups = rlrs.param_groups(model, ratios, lr=3e-4, rules=rules)
    assert {g["component"]: len(g["params"]) for g in groups if g["component"] in ratios} == {
        "policy_net": 2, "action_net": 1, "value_net": 1
    }  # fmt: skip


def test_what_has_no_towers_is_one_line():
    with pytest.raises(rlrs.PartitionError, match="LlamaForCausalLM has one tower: name the parts"):
        rlrs.tower_rules(build("llama"))
    with pytest.raises(rlrs.PartitionError, match="no parameter of the model is in 'critic'"):
        rlrs.tower_rules(nn.ModuleDict({"actor": linear(4, 2), "critics": linear(4, 1)}), "actor", "critic")


def test_the_heads_of_two_towers_side_by_side_are_no_connector():
    assert "connector" not in components(build_clip()).values()
