"""Time and memory of `partition` for a 70-billion-parameter Llama and for DeepSeek-V3, on the meta device.

    python -m benchmarks.partition_70b

Memory is the peak above the model, in Python objects (tracemalloc) and resident; time is the median of 11 runs, beside
that of one walk over `named_parameters()`, which no partition can do without. Writes
benchmarks/results/partition_70b.json.
"""

from __future__ import annotations

import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig

import rlrs
from benchmarks.pairs import write

MODELS = {
    "llama, 70 B": LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
    "deepseek_v3, 671 B": DeepseekV3Config(),
}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(name: str, model: torch.nn.Module) -> dict[str, Any]:
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = seconds(lambda: rlrs.partition(model))
    times = [seconds(lambda: rlrs.partition(model)) for _ in range(11)]
    walks = [seconds(lambda: dict(model.named_parameters())) for _ in range(11)]
    above = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
    tracemalloc.start()
    rlrs.partition(model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tensors": sum(1 for _ in model.parameters()),
        "first_seconds": first,
        "seconds": times,
        "walk_seconds": walks,
        "peak_mb_python": peak / 2**20,
        "peak_mb_resident": above,
    }


def main() -> None:
    rows = []
    for name, config in MODELS.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        rows.append(measure(name, model))
        row = rows[-1]
        typical, walk = statistics.median(row["seconds"]), statistics.median(row["walk_seconds"])
        print(
            f"{name}: {row['parameters'] / 1e9:.0f} B parameters in {row['tensors']} tensors, first "
            f"{row['first_seconds']:.3f} s, median {typical:.3f} s ({typical / walk:.0f} walks over the parameters), "
            f"{row['peak_mb_python']:.1f} MB above the model"
        )
    print(write("partition_70b", rows))


if __name__ == "__main__":
    main()
