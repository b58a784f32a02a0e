"""What the stacks call the parameters of their own models, per component.

Read from their sources in 2026: Megatron-LM's GPTModel, torchtitan's decoder models, OLMo-core's Transformer.
"""

from __future__ import annotations

MEGATRON = {  # globs
    "embedding": ("*embedding.word_embeddings.*",),
    "position": ("*embedding.position_embeddings.*",),
    "attention": (
        # Not `linear_qkv.layer_norm_weight`: norms fused into the projection that follows them.
        "*.self_attention.linear_*.weight",
        "*.self_attention.linear_*.bias",
        "*.cross_attention.linear_*.weight",
        "*.cross_attention.linear_*.bias",
    ),
    "feed_forward": ("*.mlp.linear_fc?.weight", "*.mlp.linear_fc?.bias"),
    "experts": ("*.mlp.experts.*",),
    "shared_experts": ("*.mlp.shared_experts.*",),
    "router": ("*.mlp.router.*",),
    "norm": ("*layernorm*", "*layer_norm*"),
    "unembedding": ("*output_layer.*",),
}

TORCHTITAN = {  # regular expressions, searched; without the layers, between which wrappers put names of their own
    "embedding": (r"(?:^|\.)tok_embeddings\.",),
    "attention": (r"(?:^|\.)attention\.(?!.*norm\.)",),
    "feed_forward": (r"(?:^|\.)feed_forward\.",),
    "experts": (r"(?:^|\.)(?:routed_)?experts\.",),
    "shared_experts": (r"(?:^|\.)shared_experts\.",),
    "router": (r"(?:^|\.)router\.",),
    "norm": (r"(?:^|[._])norm\.",),
    "unembedding": (r"(?:^|\.)(?:lm_head|output)\.",),
}

OLMO_CORE = {  # globs, disjoint: a parameter that two of them match would be in two groups
    "embedding": ("embeddings.weight",),
    "attention": ("blocks.*.attention.w_*",),
    "feed_forward": ("blocks.*.feed_forward.w*",),
    "experts": ("blocks.*.feed_forward_moe.experts.*",),
    "shared_experts": ("blocks.*.feed_forward_moe.shared_mlp.*",),
    "router": ("blocks.*.feed_forward_moe.router.*",),
    "norm": ("*norm.weight",),
    "unembedding": ("lm_head.w_out.*",),
}
