"""Layers, and what is below them, by structure: stages, towers, stems; and layer-wise decay on them."""

import pytest
import torch
from torch import nn

import rlrs
from architectures import build, build_llava, linear, named, shuffled
from rlrs.components import PartitionError, partition, refine

transformers = pytest.importorskip("transformers")
NORM, WIDTH = nn.LayerNorm, 16


def factors(model, factor=0.5):
    """Parameter -> its factor under layer-wise decay, through the ratios' own keys."""
    ratios = rlrs.layer_decay(model, factor)
    parts = refine(model, partition(model), ratios).parts
    return {name: ratios[component].start for component, names in parts.items() for name in names}


def made(model_class, config):
    with torch.device("meta"):
        return getattr(transformers, model_class)(config)


def block(d=WIDTH):
    attention = named(**{f"{n}_proj": linear(d, d) for n in "qkvo"})
    return named(norm_1=NORM(d), attn=attention, norm_2=NORM(d), mlp=named(up=linear(d, 4 * d), down=linear(4 * d, d)))


def test_berts_embedding_norm_is_below_its_four_layers():
    found = factors(build("bert", num_hidden_layers=4))
    below = [f"bert.embeddings.{n}" for n in ("LayerNorm.weight", "LayerNorm.bias", "position_embeddings.weight")]
    assert {found[name] for name in [*below, "bert.embeddings.word_embeddings.weight"]} == {0.5**5}
    assert found["bert.encoder.layer.0.output.LayerNorm.weight"] == 0.5**4
    assert found["bert.encoder.layer.3.attention.self.query.weight"] == 0.5
    assert found["cls.predictions.transform.dense.weight"] == 1


def test_the_embedding_norm_of_bloom_is_below_and_its_final_norm_above():
    found = factors(build("bloom"))
    assert (
        found["transformer.word_embeddings_layernorm.weight"] == found["transformer.word_embeddings.weight"] == 0.5**3
    )
    assert found["transformer.ln_f.weight"] == 1


def test_the_one_norm_of_lfm2_is_its_last_though_it_is_called_embedding_norm():
    assert factors(build("lfm2"))["model.embedding_norm.weight"] == 1


def test_an_encoder_and_a_decoder_of_unequal_depth_count_their_layers_each():
    model = build("t5", num_decoder_layers=4)
    found = factors(model)
    assert found["encoder.block.0.layer.0.SelfAttention.q.weight"] == 0.5**2
    assert found["encoder.block.1.layer.1.DenseReluDense.wi.weight"] == 0.5
    assert found["decoder.block.0.layer.0.SelfAttention.q.weight"] == 0.5**4
    assert found["decoder.block.3.layer.1.EncDecAttention.q.weight"] == 0.5
    assert found["shared.weight"] == 0.5**5  # below the deepest
    assert found["decoder.final_layer_norm.weight"] == 1
    ratios = rlrs.layer_decay(model, 0.5)
    assert ratios["attention/encoder.layer.0"].start == 0.25
    assert ratios["attention/layer.3"].start == 0.5  # the decoder alone has it


def test_a_vision_tower_has_a_depth_of_its_own():
    found = factors(build_llava(text_layers=6, vision_layers=2))
    vision = "model.vision_tower."
    assert found[f"{vision}embeddings.patch_embedding.weight"] == 0.5**3
    assert found[f"{vision}embeddings.class_embedding"] == found[f"{vision}pre_layrnorm.weight"] == 0.5**3
    layer_0 = [name for name in found if name.startswith(vision) and ".layers.0." in name]
    assert {found[name] for name in layer_0} == {0.5**2}
    assert found["model.multi_modal_projector.linear_1.weight"] == 1
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == 0.5**6
    assert found["model.language_model.embed_tokens.weight"] == 0.5**7


def test_the_layers_of_swins_stages_are_counted_through_and_a_merge_goes_with_the_layer_before_it():
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 3], num_heads=[2, 2], window_size=2
    )
    found = factors(made("SwinForImageClassification", config))
    stages = "swin.encoder.layers."
    assert found["swin.embeddings.norm.weight"] == found["swin.embeddings.patch_embeddings.projection.weight"] == 0.5**5
    assert found[f"{stages}0.blocks.0.attention.q_proj.weight"] == 0.5**4
    assert found[f"{stages}0.downsample.reduction.weight"] == 0.5**4
    assert [found[f"{stages}1.blocks.{i}.attention.q_proj.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert found["classifier.weight"] == found["swin.layernorm.weight"] == 1


def test_convnexts_downsampling_goes_with_the_layer_after_it():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 3], num_stages=2)
    found = factors(made("ConvNextForImageClassification", config))
    stages = "convnext.encoder.stages."
    assert found["convnext.embeddings.layernorm.weight"] == 0.5**5
    assert found[f"{stages}0.layers.0.pwconv1.weight"] == 0.5**4
    assert found[f"{stages}1.downsampling_layer.1.weight"] == found[f"{stages}1.layers.0.dwconv.weight"] == 0.5**3
    assert found[f"{stages}1.layers.2.layer_scale_parameter"] == 0.5


@pytest.mark.parametrize("stable", [False, True])
def test_the_convolutions_of_wav2vec2_are_below_its_layers(stable):
    config = transformers.Wav2Vec2Config(
        **{"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32},
        **{"conv_dim": [8] * 2, "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 8},
        **{"num_conv_pos_embedding_groups": 2, "vocab_size": 32, "do_stable_layer_norm": stable},
    )
    found = factors(made("Wav2Vec2ForCTC", config))
    below = [name for name in found if "feature_" in name or "pos_conv" in name or name.endswith("masked_spec_embed")]
    assert len(below) > 8
    assert {found[name] for name in below} == {0.5**4}
    assert found["wav2vec2.encoder.layers.0.attention.q_proj.weight"] == 0.5**3
    # Before the layers where they end in a norm; after them where they begin with one.
    assert found["wav2vec2.encoder.layer_norm.weight"] == (1 if stable else 0.5**4)


def test_lists_that_hold_parts_of_the_same_layers_are_one_stack():
    model = made("XLMWithLMHeadModel", transformers.XLMConfig(emb_dim=32, n_layers=3, n_heads=4, n_words=96))
    depths = partition(model).depths
    for name in ("attentions.2.q_lin.weight", "ffns.2.lin1.weight", "layer_norm1.2.weight", "layer_norm2.2.weight"):
        assert depths[f"transformer.{name}"].layer == 2
    assert depths["transformer.layer_norm_emb.weight"].below


def test_value_embeddings_are_no_layers():
    tables = nn.ModuleDict({str(i): nn.Embedding(50, WIDTH) for i in (0, 2)})
    body = nn.ModuleDict({"wte": nn.Embedding(50, WIDTH), "h": nn.ModuleList([block(), block(), block()])})
    model = named(transformer=body, lm_head=linear(WIDTH, 50), value_embeds=tables)
    ratios = rlrs.layer_decay(model, 0.5)
    assert ratios["embedding"].start == 0.5**4
    assert not [key for key in ratios if key.startswith("embedding/")]
    assert partition(model).depths["transformer.h.2.mlp.up.weight"].layer == 2


def test_in_a_sequence_only_layers_count():
    model = nn.Sequential(nn.Embedding(50, WIDTH), NORM(WIDTH), block(), block(), NORM(WIDTH), linear(WIDTH, 50))
    depths = partition(model).depths
    assert depths["0.weight"].below
    assert depths["1.weight"].below
    assert [depths[f"{i}.mlp.up.weight"].layer for i in (2, 3)] == [0, 1]
    assert depths["4.weight"].height == depths["5.weight"].height == 0


def test_layers_keep_their_numbers_on_a_stage_of_a_pipeline():
    model = named(layers=nn.ModuleDict({"4": block(), "5": block()}), norm=NORM(WIDTH))
    assert partition(model).depths["layers.5.mlp.up.weight"].layer == 5
    groups = rlrs.param_groups(model, {"attention/layer.4": 2, "attention/layer.0": 3}, lr=1.0, partial=True)
    assert "attention/layer.4" in {group["name"] for group in groups}


@pytest.mark.parametrize("name", ["bert", "t5", "whisper", "gpt2", "jamba"])
def test_order_of_registration_changes_no_depth(name):
    plain = partition(build(name)).depths
    for seed in range(2):
        mixed = partition(shuffled(build(name), seed)).depths
        assert all(mixed[name] == depth for name, depth in plain.items() if name in mixed)


def test_parametrized_and_wrapped_models_have_the_depths_of_plain_ones():
    plain = named(tok=nn.Embedding(50, WIDTH), layers=nn.ModuleList([block(), block()]), out=linear(WIDTH, 50))
    expected = {name: depth.height for name, depth in partition(plain).depths.items()}
    nn.utils.parametrizations.weight_norm(plain.layers[1].mlp.up)
    found = partition(nn.DataParallel(plain)).depths
    assert found["module.layers.1.mlp.up.parametrizations.weight.original0"].height == 1
    assert found["module.layers.1.mlp.up.parametrizations.weight.original1"].height == 1
    assert all(found[f"module.{n}"].height == h for n, h in expected.items() if f"module.{n}" in found)


def test_a_model_without_layers_has_no_layer_decay():
    with pytest.raises(ValueError, match="Sequential has no layers"):
        rlrs.layer_decay(nn.Sequential(nn.Linear(4, 4)), 0.5)


# Keys of ratios.


def test_a_tower_may_be_named_in_a_key_or_left_out():
    model = build("t5", num_decoder_layers=4)
    parts = refine(
        model, partition(model), ["attention/encoder.layer.0-", "norm/decoder.layer.1", "embedding/below"]
    ).parts
    assert {name.partition(".")[0] for name in parts["attention/encoder.layer.0-"]} == {"encoder"}
    assert {name.partition(".")[0] for name in parts["attention"]} == {"decoder"}
    assert {name.split(".")[2] for name in parts["norm/decoder.layer.1"]} == {"1"}
    assert parts["embedding/below"] == ["shared.weight"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("attention/encoders.layer.0", r"holds no parameter: the model's towers are decoder, encoder, shared"),
        ("attention/encoder.layer.3", r"holds no parameter: attention has layers 0 to 1"),
        ("attention/below", r"attention has nothing below the layers"),
        ("attention/beneath.layers.0", r"should look like attention/layer.0-3"),
        ("attn/layer.0", r"no component 'attn'; did you mean 'attention'"),
        ("lm_head/layer.0", r"no component 'lm_head', which is called 'unembedding' here; it has embedding, position"),
    ],
)
def test_a_key_for_what_is_not_there_says_what_is(key, message):
    model = build("t5", num_decoder_layers=4)
    with pytest.raises(PartitionError, match=message):
        refine(model, partition(model), [key])


def test_a_range_of_one_tower_overlaps_one_of_all():
    model = build("t5")
    with pytest.raises(PartitionError, match=r"'attention/layer.0-1' and 'attention/encoder.layer.1' overlap"):
        refine(model, partition(model), ["attention/layer.0-1", "attention/encoder.layer.1"])
    refine(model, partition(model), ["attention/decoder.layer.1", "attention/encoder.layer.1"])


# What does not train.


def frozen(*parts):
    model = build("llama").to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in parts))
    return model


@pytest.mark.parametrize("part", ["layers.0.", "norm", "embed_tokens", "self_attn"])
def test_ratios_for_layers_that_are_frozen_are_no_error(part):
    model = frozen(part)
    for ratios in (rlrs.layer_decay(model, 0.8), {"attention/layer.0": 0.5, "norm/layer.0-": 2, "embedding": 5}):
        groups = rlrs.param_groups(model, ratios, lr=1.0)
        rlrs.RelativeLR(torch.optim.SGD(groups), ratios, total_steps=10)


def test_a_ratio_for_experts_that_are_frozen_in_one_tensor_is_no_error():
    model = build("mixtral").to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("experts" not in name)
    ratios = {"experts/expert.0-1": 2.0, "router": 1.0}
    rlrs.RelativeLR(torch.optim.SGD(rlrs.param_groups(model, ratios, lr=1.0)), ratios, total_steps=10)
    optimizer = torch.optim.SGD(rlrs.param_groups(model, ratios, lr=1.0))
    with pytest.raises(rlrs.RatiosError, match=r"router/layer\.1"):
        rlrs.RelativeLR(optimizer, {"router/layer.1": 2.0}, total_steps=10)


def test_two_stacks_in_one_module_and_a_tower_inside_another_have_depths_of_their_own():
    siblings = named(
        embed=nn.Embedding(50, WIDTH),
        encoder_layers=nn.ModuleList([block()]),
        decoder_layers=nn.ModuleList([block(), block()]),
    )
    found = factors(siblings)
    assert found["encoder_layers.0.mlp.up.weight"] == found["decoder_layers.1.mlp.up.weight"] == 0.5
    assert found["decoder_layers.0.mlp.up.weight"] == 0.25
    inside = named(stem=nn.Conv2d(3, WIDTH, 4, stride=4), blocks=nn.ModuleList([block() for _ in range(3)]))
    nested = named(embed=nn.Embedding(50, WIDTH), images=inside, layers=nn.ModuleList([block(), block()]))
    found = factors(nested)
    assert found["embed.weight"] == 0.5**3  # below its own two layers, not below the three of the tower inside
    assert found["images.stem.weight"] == 0.5**4
    assert found["images.blocks.0.mlp.up.weight"] == 0.5**3
    assert {depth.tower for depth in partition(nested).depths.values()} == {"images", "layers"}


def blocks(count):
    return nn.ModuleList([block() for _ in range(count)])


def test_two_stacks_of_one_length_in_one_module_are_not_one():
    depths = partition(named(embed=nn.Embedding(50, WIDTH), down=blocks(2), middle=block(), up=blocks(2))).depths
    assert {depths[f"{name}.0.mlp.up.weight"].tower for name in ("down", "up")} == {"down", "up"}
    assert depths["middle.mlp.up.weight"].layer is None


@pytest.mark.parametrize("names", [("layer0", "layer1", "layer2"), ("h_1", "h_2", "h_3")])
@pytest.mark.parametrize("listed", [False, True])
def test_layers_that_are_numbered_attributes_are_counted_from_the_first(names, listed):
    layers = {name: block() for name in names}
    body = {"layers": nn.ModuleDict(layers)} if listed else layers
    found = factors(named(embed=nn.Embedding(50, WIDTH), **body, norm=NORM(WIDTH)))
    path = "layers." if listed else ""
    assert [found[f"{path}{name}.mlp.up.weight"] for name in names] == [0.5**3, 0.5**2, 0.5]
    assert (found["embed.weight"], found["norm.weight"]) == (0.5**4, 1)


def test_stages_that_are_attributes_are_counted_through_with_the_stem_below():
    def convolutions():
        return named(conv1=nn.Conv2d(8, 8, 3), bn1=nn.BatchNorm2d(8), conv2=nn.Conv2d(8, 8, 3), bn2=nn.BatchNorm2d(8))

    stages = {f"layer{i}": nn.Sequential(*[convolutions() for _ in range(2)]) for i in (1, 2)}
    found = factors(named(conv1=nn.Conv2d(3, 8, 7), bn1=nn.BatchNorm2d(8), **stages, fc=linear(8, 10)))
    assert [found[f"layer{i}.{j}.conv1.weight"] for i in (1, 2) for j in (0, 1)] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert (found["conv1.weight"], found["bn1.weight"], found["fc.weight"]) == (0.5**5, 0.5**5, 1)


def test_the_layers_of_resnets_stages_are_counted_through():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])
    found = factors(made("ResNetForImageClassification", config))
    layers = {factor for name, factor in found.items() if ".stages.1.layers.0" in name}
    assert layers == {0.5**2}
    assert found["resnet.embedder.embedder.convolution.weight"] == 0.5**4


def test_segformers_first_patches_are_below_and_its_head_above():
    sizes = {
        "num_encoder_blocks": 2,
        "depths": [1, 2],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "mlp_ratios": [2, 2],
    }
    sizes |= {"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "decoder_hidden_size": 8}
    found = factors(made("SegformerForSemanticSegmentation", transformers.SegformerConfig(**sizes)))
    assert {f for name, f in found.items() if ".0.patch_embeddings" in name} == {0.5**4}
    assert {f for name, f in found.items() if ".1.patch_embeddings" in name} == {0.5**2}
    assert {f for name, f in found.items() if name.startswith("decode_head")} == {1}


def test_what_a_name_puts_last_is_above():
    top = {"top_conv": nn.Conv1d(WIDTH, WIDTH, 3), "emb_layer_norm_after": NORM(WIDTH)}
    found = factors(named(embed=nn.Embedding(50, WIDTH), conv_in=nn.Conv1d(4, WIDTH, 3), layers=blocks(2), **top))
    assert found["top_conv.weight"] == found["emb_layer_norm_after.weight"] == 1
    assert found["conv_in.weight"] == found["embed.weight"] == 0.5**3
