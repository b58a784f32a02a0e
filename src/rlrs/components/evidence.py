"""What the names and shapes of one node say about its role, without looking at what stands around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from torch import nn

from rlrs.components.module_tree import Node, is_vector

# Words at the end of a class's or an attribute's name, after "layer", "block" and numbers are taken off.
_WORDS = {
    "feed_forward": re.compile(r"(?:mlp|ffn|feed_?forward|ffwd|glu)s?$|(?:^|_)ff$"),
    "attention": re.compile(r"(?:attention|attn|attend|mha|mla|mqa|gqa)s?$"),
    "ssm": re.compile(
        r"(?:mamba(?:_?mixer)?|mamba2mixer|ssm|ssd|s4d?|lru|lstm|gru|rnn|recurrent|delta_?net|rwkv|retention)$"
    ),
    "router": re.compile(r"(?:router|gating)$"),
    "conv_block": re.compile(r"conv(?:olution)?(?:_?\dd)?s?$"),
}
_SUFFIX = re.compile(r"(?:_|\d+|layers?|blocks?|modules?|networks?|unit|(?<!s)core)$")
_POSITION = re.compile(
    r"(?:^|_)(?:w?pos|wpe|positions?|positional|rope|rotary)(?:$|\d|_(?!wise|ffn?$|mlp))"
    r"|(?:^|_)rel(?:ative)?_(?:pos|emb|att\w*_bias|bias)|positional|position_?(?:emb|enc|bias)|rotary"
)
_EMBEDDING = re.compile(
    r"(?:^|_)(?:embed|embeds|embedder|embedding|embeddings|emb|embd|embs|wte|tokens?|patchify|patch|stem|prompts?)(?:_|\d|$)"
    r"|embeddings?$|embedder$|embed$"
)
_HEAD = re.compile(
    r"(?:^|_)(?:heads?|classifier|score|unembed|unembedding|logits?(?:_dense|_linear|_proj\w*)?|pooler|predictions?|cls|qa_outputs|embed_out"
    r"|proj_out|output_projection)$|(?:head|classifier|pooler|unembed|unembedding)$"
)
_PARAMETER = re.compile(r"_(?:weight|matrix|kernel|bias|w|b)$")
_BANK = re.compile(r"_(?:banks?|weights?|params?|stack(?:ed)?|all|w)$")
_Q_K_V_OUT = {"qkv", "qkvo", "qk", "vo", "kv", "ov"}
_LEAF_HEAD = re.compile(r"^(?:output|decoder|vocab\w*|out|fc_out|to_out)$")
_SHARED = re.compile(r"(?:^|_)shared|shared(?:expert|mlp)", re.I)
_ROUTER = re.compile(
    r"(?:^|_)(?:router|routing|gating|switch|dispatcher)(?:_|\d|$)|router$|gating$"
    r"|(?:^|_|[a-z])gates?(?:_(?:weight|bias|w|b|layer|network|linear))?$|(?:^|_)wg$"
)
_EXPERTS = re.compile(r"(?:^|_)experts?(?:_|\d|$)|experts?$")
_DECAY = re.compile(r"(?:^|_)(?:a_logs?|log_a|dt_bias|time_decay|recurrent_param|lambda_re)$", re.I)
_SCALE = re.compile(r"(?:^|_)(?:gamma\d?|lambda\d?|(?:layer_?)?scale\d?|ls\d?|gain)(?:_|$)", re.I)
_IS_NORM = re.compile(r"norm", re.I)
_NAMED_NORM = re.compile(r"norm\d*$|(?:^|_)ln(?:_?f|_?\d+)?(?:_|$)", re.I)


@lru_cache(maxsize=4096)
def _trimmed(text: str) -> str:
    text = text.lower()
    while text != (text := _SUFFIX.sub("", text)):
        pass
    return text


@lru_cache(maxsize=4096)
def word_role(text: str, *, is_class: bool) -> str | None:
    """Role that the end of a class's or an attribute's name says, if any."""
    trimmed = _trimmed(text)
    if _POSITION.search(text.lower()) and not (is_class and "wise" in text.lower()):  # PositionwiseFeedForward
        return "position"
    if is_class and text.endswith("FF"):
        return "feed_forward"
    return next((role for role, pattern in _WORDS.items() if pattern.search(trimmed)), None)


@lru_cache(maxsize=4096)
def names_position(text: str) -> bool:
    """Whether a name says that the tensor holds positions."""
    return bool(_POSITION.search(text.lower()))


@lru_cache(maxsize=4096)
def names_embedding(text: str) -> bool:
    """Whether a name says that the module or tensor is an input embedding."""
    return bool(_EMBEDDING.search(text.lower()) and not _ROUTER.search(text.lower())) or text == "W_E"


def names_head(text: str, *, leaf: bool) -> bool:
    """Whether a name says output head; some words do for a single layer only."""
    trimmed = _trimmed(text)
    return bool(_HEAD.search(trimmed) or (leaf and _LEAF_HEAD.search(trimmed)))


def names_head_parameter(text: str) -> bool:
    """Whether a bare parameter's own name says output head (`lm_head`, `output_weight`, `W_U`)."""
    plain = _PARAMETER.sub("", text)
    return bool(names_head(plain, leaf=plain != text) or text in ("W_U", "b_U")) and text != "cls"


def bank_role(text: str, *, beside: list[str]) -> str | None:
    """Role of a bare parameter that holds the weights of a layer (`mlp_up_w`) or of many (`mlp_bank`).

    Args:
        text: the parameter's name.
        beside: names of all such parameters of its module: `up` is a feed-forward's beside queries, keys and values.
    """
    plain, *others = (_BANK.sub("", name.lower()) for name in (text, *beside))
    if _EXPERTS.search(plain) and not _ROUTER.search(plain):
        return "experts"
    if (plain == "gate" or _WORDS["router"].search(plain)) and any(map(_EXPERTS.search, others)):
        return "router"
    words = [word for word in re.split(r"[_\d]+", plain) if word]
    if any(_WORDS["attention"].search(word) or word in _Q_K_V_OUT for word in words):
        return "attention"
    if any(_WORDS["feed_forward"].search(word) for word in words):
        return "feed_forward"
    if has_query_key_value(others):
        return (
            "attention"
            if plain in attention_weights(others)
            else "feed_forward"
            if is_feed_forward_weight(plain)
            else None
        )
    return None


def names_norm_parameter(text: str) -> bool:
    """Whether a parameter's own name says norm, as in a layer fused with the norm before it."""
    return bool(_NAMED_NORM.search(re.sub(r"(?<=norm)s$|_(?:bias|scales?)$", "", _BANK.sub("", text))))


def names_scale(text: str) -> bool:
    """Whether a name says per-channel scale of a residual branch."""
    return bool(_SCALE.search(text))


@lru_cache(maxsize=4096)
def _says_shared(text: str) -> bool:
    return bool(_SHARED.search(text))


def names_shared(node: Node) -> bool:
    """Whether a node's name or class says shared expert."""
    return _says_shared(node.name) or (not node.is_container and _says_shared(node.kind))


@lru_cache(maxsize=4096)
def names_router(text: str) -> bool:
    """Whether a name says router or gate."""
    return bool(_ROUTER.search(text.lower()))


@lru_cache(maxsize=4096)
def _says_experts(text: str) -> bool:
    return bool(_EXPERTS.search(text.lower()))


def names_experts(node: Node) -> bool:
    """Whether a node's name, class or elements' class says experts, and not their gate nor shared ones."""
    if names_shared(node) or names_router(node.name):
        return False
    kinds = {child.kind for child in node.children} if node.is_container else {node.kind}
    by_class = bool(kinds) and all(_says_experts(kind) and "mixture" not in kind.lower() for kind in kinds)
    return _says_experts(node.name) or by_class


def names_norm(node: Node) -> bool:
    """Whether a node's name or class says norm, whatever it holds (an adaptive norm holds linears)."""
    return bool(_NAMED_NORM.search(node.name) or _NAMED_NORM.search(node.kind))


def names_decay(text: str) -> bool:
    """Whether a parameter's name says learned decay or time step of a recurrent state."""
    return bool(_DECAY.search(text))


def has_decay(node: Node) -> bool:
    """Whether the module itself owns a learned decay or time step of a recurrent state."""
    return isinstance(node.module, nn.RNNBase) or any(names_decay(n) for n in node.params)


def norm_evidence(node: Node) -> str | None:
    """Why a leaf is a normalisation, or a scale per channel; None if it is not."""
    if node.children or not node.params or isinstance(node.module, nn.Linear):
        return None
    vectors = all(is_vector(p) for _, p in node.tensors())
    if _IS_NORM.search(node.kind):
        return "owner:"
    if re.search(
        r"Linear|Conv(?:Transpose)?\dd", node.kind, re.I
    ):  # sharded, perhaps: then its weight is a vector here
        return None
    if vectors and _NAMED_NORM.search(node.name):
        return "name:"
    plain = {"weight", "bias", "gamma", "beta", "scale", "shift", "g", "b", "alpha"}
    if vectors and (all(n in plain for n in node.params) or all(names_scale(n) for n in node.params)):
        return "structure: one scale per channel,"
    return None


# Names of the weights of an attention block after affixes are taken off: `q_proj`, `to_q`, `wq`, `W_Q`, `q_a_proj`.
_AFFIX = {"proj", "lin", "linear", "to", "layer", "weight", "w", "in", "c", "a", "b", "with", "mqa", "fused"}
_Q, _K, _V = {"q", "query", "queries"}, {"k", "key", "keys"}, {"v", "value", "values"}
_KV = {"kv", "keyvalue"}
_QKV = {"qkv", "querykeyvalue", "qkvz", "attn", "pack"}
_OUT = {"o", "out", "output"}


@lru_cache(maxsize=4096)
def _attention_word(name: str) -> str:
    words = [w for w in re.split(r"[_\d]+", name.lower()) if w and w not in _AFFIX]
    word = "".join(words)
    return word[1:] if word[:1] == "w" and word[1:] in _Q | _K | _V | _KV | _QKV | _OUT else word


def attention_weights(names: Iterable[str]) -> set[str]:
    """Those names that are of query, key, value and output projections; beside an `o`, `out` is the feed-forward's."""
    words = {name: _attention_word(name) for name in names}
    outputs = {"o"} if "o" in words.values() else _OUT
    return {name for name, word in words.items() if word in _Q | _K | _V | _KV | _QKV | outputs}


def has_attention_inputs(name: str) -> bool:
    """Whether a layer's name is that of a query, key or value projection, apart or fused."""
    return _attention_word(name) in _Q | _K | _V | _KV | _QKV


def has_query_key_value(names: list[str]) -> bool:
    """Whether the names hold queries, keys and values, apart or fused."""
    words = {_attention_word(name) for name in names}
    return bool(words & _QKV or (words & _Q and (words & _KV or (words & _K and words & _V))))


_UP = re.compile(
    r"^(?:gate_up(?:_proj)?|(?:proj_|w_?)?(?:up|gate)(?:_proj|_gate)?|(?:linear_|c_)?fc_?1?|w_?[13]|w_?i(?:_\d)?|w12"
    r"|w_in|lin(?:ear)?_?1|dense_h_to_4h|(?:fc|linear|input)_(?:in|linear)|intermediate|ffn|proj_up(?:_gate)?)$",
    re.I,
)
_DOWN = re.compile(
    r"^(?:(?:proj_|w_?)?down(?:_proj)?|(?:linear_|c_)?fc_?2|c_proj|w_?2|w_?o|w_out|lin(?:ear)?_?2|dense_4h_to_h"
    r"|(?:fc|linear|output)_(?:out|linear)|ffn_output)$",
    re.I,
)


@lru_cache(maxsize=4096)
def is_feed_forward_weight(name: str) -> bool:
    """Whether a layer's name is that of one half of a feed-forward block."""
    return bool(_UP.search(name) or _DOWN.search(name))


def has_up_and_down(names: list[str]) -> bool:
    """Whether the names are those of a feed-forward block and of nothing else."""
    return (
        2 <= len(names) <= 4
        and all(is_feed_forward_weight(n) for n in names)
        and any(_UP.search(n) for n in names)
        and any(_DOWN.search(n) for n in names)
    )


def expanding_pair(shapes: dict[str, tuple[int, ...]], widths: Mapping[int, int]) -> set[str]:
    """Names of the matrices that go from one width to a larger one, (h, d) or (2h, d), and back, (d, h), in any order.

    `2h` is a gate and its value fused. A bottleneck (its larger side is the model's width: more norms have it) is not
    told from a low-rank map and stays out.
    """
    found: set[str] = set()
    for name, shape in shapes.items():
        if len(shape) == 2 and shape[0] < shape[1]:
            d, h = shape
            ups = [n for n, s in shapes.items() if s in ((h, d), (2 * h, d))]
            if ups and widths.get(d, 0) >= widths.get(h, 0):
                found |= {name, *ups}
    return found
