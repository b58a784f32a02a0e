"""Tiny models of transformers in folders, with a tokenizer over bytes, and text to train them on."""

import json
import random

import torch


def save_model(folder, *, width=16, seed=0):
    """A Llama of one block with its weights, and a tokenizer of 257 entries."""
    import transformers
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={**{c: i for i, c in enumerate(letters)}, "<|end|>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=257, bos_token_id=None, eos_token_id=256, pad_token_id=256,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def write_text(path, lines=1000):
    """Sentences that a model can learn something of."""
    draw = random.Random(0)
    path.write_text(
        "".join(f"{draw.choice(['the cat', 'a dog'])} sat on {draw.randint(1, 99)}.\n" for _ in range(lines))
    )


def write_records(path, kind, count=30):
    """Records of one kind: messages, prompt and completion, or text."""
    make = {
        "messages": lambda i: {
            "messages": [
                {"role": "user", "content": f"what is {i} + 1?"},
                {"role": "assistant", "content": str(i + 1)},
            ]
        },
        "prompt": lambda i: {"prompt": f"{i} + 1 =", "completion": f" {i + 1}"},
        "text": lambda i: {"text": f"{i} and {i + 1} follow each other"},
    }[kind]
    path.write_text("".join(json.dumps(make(i)) + "\n" for i in range(count)))
