"""From settings to a model: the one place that knows which class a model's settings stand for."""

from __future__ import annotations

from rlrs.models.language_model import LanguageModel
from rlrs.models.transformer import Transformer
from rlrs.settings import HubConfig, ModelConfig


def build_model(config: ModelConfig | HubConfig, vocab_size: int) -> LanguageModel:
    """A model with its initial weights, drawn from torch's global generator.

    Inside `with torch.device("meta")` it takes no memory for weights.

    Args:
        config: a study's `model`.
        vocab_size: entries of the vocabulary, the data's.

    Raises:
        ConfigError: a model of transformers that cannot be built; the message says why.

    >>> import torch
    >>> model = build_model(ModelConfig(d_model=16, n_layers=1, n_heads=2), vocab_size=100)
    >>> tokens_BT = torch.randint(100, (2, 8))
    >>> model(tokens_BT, tokens_BT).loss.shape
    torch.Size([])
    """
    if isinstance(config, HubConfig):
        from rlrs.models.hub_models import HubTransformer

        return HubTransformer(config, vocab_size)
    return Transformer(config, vocab_size)
