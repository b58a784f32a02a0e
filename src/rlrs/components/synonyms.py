"""What the field calls components, in words that are not ours."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SYNONYMS = {
    "embedding": "embed embeddings embed_tokens emb wte tok_embeddings token_embedding word_embeddings input_embedding",
    "position": "wpe pos pos_emb pos_embed positions positional position_embedding position_embeddings",
    "attention": "attn self_attn self_attention mha mla gqa qkv",
    "feed_forward": "mlp mlps ffn ff ffns feedforward dense_mlp",
    "experts": "expert moe",
    "shared_experts": "shared_expert shared_mlp",
    "router": "routers gate gating",
    "norm": "norms layernorm layer_norm layernorms rmsnorm ln",
    "unembedding": "lm_head head heads output output_layer classifier score unembed de_embedding logits",
    "ssm": "mamba rnn lstm recurrent state_space",
    "conv": "convolution convs",
    "vision": "visual image vision_tower vit",
    "audio": "speech audio_tower",
    "connector": "projector mm_projector multi_modal_projector merger resampler aligner",
    "adapter": "lora adapters peft",
}
"""Component -> other words for it, divided by spaces."""
_MEANT = {word: component for component, words in SYNONYMS.items() for word in words.split()}


def standard_name(word: str) -> str | None:
    """The standard component that a word of the field means; None if it is none of them.

    >>> standard_name("lm_head"), standard_name("MLP"), standard_name("feed-forward"), standard_name("my_part")
    ('unembedding', 'feed_forward', 'feed_forward', None)
    """
    plain = re.sub(r"[\s./-]+", "_", word.strip().lower())
    if plain in SYNONYMS:
        return plain
    return _MEANT.get(plain) or _MEANT.get(plain.replace("_", ""))


def suggest_component(word: str, there: Iterable[str]) -> str:
    """The end of a message about a component that is not there: the one that was meant, or those that there are.

    >>> suggest_component("mlp", ["attention", "feed_forward"])
    "; did you mean 'feed_forward'?"
    >>> suggest_component("lm_head", ["attention"])
    ", which is called 'unembedding' here; it has attention"
    >>> suggest_component("atention", ["attention", "norm"])
    "; did you mean 'attention'?"

    Args:
        word: what was asked for; of `mlp/layer.0` the part before the stroke counts.
        there: names of the components that there are.
    """
    names = list(there)
    component, stroke, rest = word.partition("/")
    meant = standard_name(component)
    if meant is not None and meant != component:
        if meant in names:
            return f"; did you mean {meant + stroke + rest!r}?"
        return f", which is called {meant!r} here; it has {', '.join(names)}"
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}"
