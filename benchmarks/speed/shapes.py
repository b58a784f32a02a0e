"""The models that are timed: ours, and the same shape from transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlrs.settings import ModelConfig

VOCABULARY, LENGTH = 1_024, 128
LEARNING_RATE, WEIGHT_DECAY, CLIP, BETAS = 1e-3, 0.1, 1.0, (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its batch.

    Args:
        model: ours.
        batch_size: sequences per step.
        steps: of one round, a multiple of the steps between lines of a log, so that every round has its share of them.
        vocabulary: entries of it.
        length: tokens per sequence.
    """

    model: ModelConfig
    batch_size: int
    steps: int = 10
    vocabulary: int = VOCABULARY
    length: int = LENGTH

    def hub(self) -> tuple[str, dict[str, Any]]:
        """Model type of transformers with the same shape, and its settings."""
        model = self.model
        settings: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": model.d_model,
            "num_hidden_layers": model.n_layers,
            "num_attention_heads": model.n_heads,
            "num_key_value_heads": model.n_heads,
            "intermediate_size": model.hidden,
            "max_position_embeddings": self.length,
            "tie_word_embeddings": False,
        }
        if not model.n_experts:
            return "llama", settings
        # Balance loss as ours has: without it a mixture of experts is not trained.
        experts = {"num_experts": model.n_experts, "num_experts_per_tok": 1, "output_router_logits": True}
        return "olmoe", {**settings, **experts, "router_aux_loss_coef": model.load_balancing}


SHAPES = {
    "dense 64": Shape(model=ModelConfig(d_model=64, n_layers=4, n_heads=4), batch_size=16),
    "dense 128": Shape(model=ModelConfig(d_model=128, n_layers=4, n_heads=4), batch_size=16),
    "dense 256": Shape(model=ModelConfig(d_model=256, n_layers=4, n_heads=4), batch_size=8),
    "dense 512": Shape(model=ModelConfig(d_model=512, n_layers=4, n_heads=8), batch_size=8),
    "moe 64": Shape(model=ModelConfig(d_model=64, n_layers=4, n_heads=4, n_experts=8), batch_size=16),
}
