"""Conversations: the tokenizer's own template, loss on what the assistant says, windows packed without padding."""

import json

import pytest
import torch

from rlrs.data import prepare
from rlrs.data.chat import chat_encoder
from rlrs.models import build_model
from rlrs.models.loss import IGNORED, projected_cross_entropy
from rlrs.settings import ConfigError, DataConfig, ModelConfig, TrainingConfig
from rlrs.training import RunSpec, evaluate, train

transformers = pytest.importorskip("transformers")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]


def tokenizer(folder, template=TEMPLATE):
    """Words as tokens, and the marks of a template, saved as a folder of transformers."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["?", "ask", "me", "say", "this", "and", "that", "be", "kind"]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate([*words, *MARKS])}, unk_token="?"))
    plain.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token=MARKS[0], unk_token="?", additional_special_tokens=MARKS[1:]
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def conversation(*turns):
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return {"messages": [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]}


TALK = conversation("s:be kind", "u:ask me", "a:say this", "u:ask", "a:say that")


@pytest.fixture
def place(tmp_path):
    tokenizer(tmp_path / "model")
    lines = [conversation("u:ask me", f"a:{'say ' * number}this") for number in range(1, 40)]
    (tmp_path / "talk.jsonl").write_text("\n".join(json.dumps(line) for line in [TALK, *lines]))
    return tmp_path


def config(place, **options):
    plain = {
        "source": f"files:{place}/talk.jsonl", "format": "chat", "tokenizer": str(place / "model"),
        "sequence_length": 8, "valid_fraction": 0.2,
    }  # fmt: skip
    return DataConfig.model_validate({**plain, **options})


def test_the_loss_is_on_what_the_assistant_says_and_on_the_end_of_its_turn(place):
    encoder = chat_encoder(config(place))
    (tokens,) = encoder.encode([json.dumps(TALK["messages"])])
    names = tokenizer(place / "model").convert_ids_to_tokens
    shown = [(names(int(token) % encoder.size), bool(token < encoder.size)) for token in tokens]
    context = ["<|system|>", "be", "kind", "<|end|>", "<|user|>", "ask", "me", "<|end|>", "<|assistant|>"]
    assert shown == [
        *((name, False) for name in context),
        *(("say", True), ("this", True), ("<|end|>", True)),
        *((name, False) for name in ["<|user|>", "ask", "<|end|>", "<|assistant|>"]),
        *(("say", True), ("that", True), ("<|end|>", True)),
    ]
    assert encoder.ending().tolist() == [encoder.end + encoder.size]


def test_targets_that_are_context_are_left_out(place):
    data = prepare(config(place), place / "data")
    size = data.vocab_size
    inputs_BT, targets_BT = data.batch(0, 0, 16)
    assert inputs_BT.min() >= 0
    assert inputs_BT.max() < size
    said = {token for token in targets_BT.unique().tolist() if token != IGNORED}
    names = tokenizer(place / "model").convert_ids_to_tokens
    assert {names(token) for token in said} == {"say", "this", "<|end|>"}


def test_windows_are_packed_and_another_template_is_other_data(place):
    data = prepare(config(place), place / "data")
    inputs_BT, _ = data.batch(0, 0, 4)
    assert inputs_BT.max() < data.vocab_size
    assert data.summary["documents"] == 40
    tokenizer(place / "model", TEMPLATE.replace("<|end|>", "<|end|> and"))
    assert prepare(config(place), place / "data").hash != data.hash


def test_a_loss_with_targets_left_out_is_the_mean_over_the_others():
    torch.manual_seed(0)
    x, weight, target = torch.randn(600, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True), None
    target = torch.randint(20, (600,)).masked_fill(torch.rand(600) < 0.6, IGNORED)
    expected = torch.nn.functional.cross_entropy(x @ weight.T, target)
    wanted = torch.autograd.grad(expected, [x, weight])
    loss = projected_cross_entropy(x, weight, target, masked=True)
    torch.testing.assert_close(loss, expected)
    for found, gradient in zip(torch.autograd.grad(loss, [x, weight]), wanted, strict=True):
        torch.testing.assert_close(found, gradient)
    with torch.no_grad():
        torch.testing.assert_close(projected_cross_entropy(x, weight, target, masked=True), expected)
        nothing = torch.full((600,), IGNORED)
        assert projected_cross_entropy(x, weight, nothing, masked=True) == 0


def test_a_validation_loss_counts_targets_and_not_batches():
    model = build_model(ModelConfig(d_model=16, n_layers=1, n_heads=2), 20)
    model.masked = True
    tokens = torch.randint(20, (2, 9))
    inputs, few, many = tokens[:, :-1], tokens[:, 1:].clone(), tokens[:, 1:]
    few[:, :6] = IGNORED
    with torch.no_grad():
        a, b = (model(inputs, targets).loss.item() for targets in (few, many))
    assert evaluate(model, [(inputs, few), (inputs, many)]) == pytest.approx((4 * a + 16 * b) / 20)


def test_a_run_learns_what_the_assistant_says(place):
    data = prepare(config(place), place / "data")
    spec = RunSpec(
        model=ModelConfig(d_model=16, n_layers=1, n_heads=2), training=TrainingConfig(eval_tokens=64, score_steps=3),
        steps=40, batch_size=8, seed=0, lr=2e-2, final_fraction=0.1, ratios={}, data_hash=data.hash,
    )  # fmt: skip
    result = train(spec, data, place / "run")
    assert result.valid_loss < 1.0
    assert "bits_per_byte" not in (place / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"text": "a"}, "line 41: no list of messages in the field 'messages'"),
        ({"messages": []}, "line 41: no list of messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 41: message 1 should have a role of system, user"),
        ({"messages": [{"role": "user", "content": 3}]}, "line 41: message 1 should have a content that is text"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 41: the assistant says nothing"),
    ],
)
def test_a_line_that_holds_no_conversation_is_named(place, line, why):
    with open(place / "talk.jsonl", "a") as file:
        file.write("\n" + json.dumps(line))
    with pytest.raises(ConfigError) as error:
        prepare(config(place), place / "data")
    assert why in str(error.value)


def test_a_tokenizer_without_a_template_or_none_of_a_model_is_one_line(place):
    (place / "model" / "chat_template.jinja").unlink()
    tokenizer(place / "model", None)
    with pytest.raises(ConfigError, match=r"has no chat template, which data\.format: chat needs"):
        prepare(config(place), place / "data")
    with pytest.raises(ValueError, match="format=chat needs the tokenizer of a model, with its chat template, not bpe"):
        config(place, tokenizer="bpe")


def test_a_template_that_writes_earlier_turns_otherwise_is_refused(place):
    changing = "{% for m in messages %}{{ messages|length }}{{ m.content }}<|end|>{% endfor %}"
    tokenizer(place / "model", changing)
    with pytest.raises(ConfigError, match="writes earlier turns otherwise once later ones are there"):
        prepare(config(place), place / "data")
