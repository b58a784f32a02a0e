"""The model that is fine-tuned: a small Llama, trained from scratch on English, as a folder of transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlrs.data import TokenData, prepare
from rlrs.models import build_model
from rlrs.models.hub_models import HubTransformer
from rlrs.settings import DataConfig, HubConfig, TrainingConfig
from rlrs.training import RunSpec, train

ENGLISH = "/usr/share/doc/python3.11/html/_sources/**/*.rst.txt"
"""Debian's python3.11-doc: the documentation of Python."""
LENGTH = 128
"""Bytes of a sequence: a token is a byte."""
MODEL = HubConfig(
    hub="llama",
    overrides={
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "tie_word_embeddings": False,
    },
)
STEPS, BATCH, RATE = 300, 16, 6e-3


def english(folder: Path) -> TokenData:
    """The text that it is trained on, as tokens; of this, too, is the general text that fine-tuning is watched by."""
    config = DataConfig(source=f"files:{ENGLISH}", tokenizer="bytes", sequence_length=LENGTH)
    return prepare(config, folder)


def pretrained(folder: Path) -> Path:
    """The folder of the trained model; trained, or trained on, if it is not there yet.

    Args:
        folder: for data, checkpoints and the model.
    """
    model_folder = folder / "model"
    if (model_folder / "model.safetensors").exists():
        return model_folder
    data = english(folder / "data")
    spec = RunSpec(
        model=MODEL,
        training=TrainingConfig(eval_tokens=65_536),
        steps=STEPS,
        batch_size=BATCH,
        seed=0,
        lr=RATE,
        final_fraction=0.0444,
        ratios={},
        data_hash=data.hash,
    )
    run = folder / "run"
    result = train(spec, data, run)
    print(f"the base: {result.steps} steps, validation loss {result.valid_loss:.3f} nats per byte of English")
    trained = loaded(run, data.vocab_size)
    writing = folder / "model.writing"
    shutil.rmtree(writing, ignore_errors=True)
    trained.model.save_pretrained(writing)
    writing.rename(model_folder)
    return model_folder


def loaded(run: Path, vocab_size: int) -> HubTransformer:
    """The model of a finished run, from its last checkpoint."""
    from safetensors.torch import load_file

    last = max(path for path in (run / "checkpoints").glob("step-*"))
    tensors = load_file(last / "rank-0.safetensors")
    model = build_model(MODEL, vocab_size)
    assert isinstance(model, HubTransformer)
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    model.load_state_dict(weights)
    return model
