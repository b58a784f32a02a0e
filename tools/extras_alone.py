"""Each extra installed alone, in a virtual environment of its own, with what it is for run there.

    python -m tools.extras_alone [EXTRA ...]

For every extra: install the package with that extra and nothing else (versions from constraints.txt), then run its
example or statement. And in an environment without any extra: the core works, and every integration that is missing
names its extra. Takes a minute or two an extra; writes tools/results/extras_alone.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from benchmarks.pairs import write

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

_MODEL = "import torch, rlrs; model = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True); "
_STEP = (
    _MODEL + "groups = rlrs.param_groups(model, {'attention': (2, 1)}, lr=0.1); o = torch.optim.AdamW(groups); "
    "s = rlrs.RelativeLR(o, {'attention': (2, 1)}, total_steps=5); "
)
# Extra -> what runs with it alone: scripts of examples/, or statements.
USES: dict[str, tuple[str, ...]] = {
    "transformers": ("transformers_trainer.py",),
    "accelerate": ("accelerate_loop.py",),
    "lightning": ("lightning_module.py", "fabric_loop.py"),
    "peft": (
        "import peft, transformers, rlrs; m = transformers.LlamaForCausalLM(transformers.LlamaConfig(hidden_size=16,"
        "num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=32)); m = peft.get_peft_model(m, "
        "peft.LoraConfig(target_modules=['q_proj'])); assert 'attention' in rlrs.partition(m)",
    ),
    "trl": ("peft_finetune.py",),
    "jax": ("optax_loop.py",),
    "tensorboard": (
        _STEP + "from rlrs.integrations.loggers import TensorBoard, rates; TensorBoard('tb').log(rates(s), 0)",
    ),
    "mlflow": (
        _STEP + "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); mlflow.start_run(); "
        "from rlrs.integrations.loggers import MLflow, rates; MLflow().log(rates(s), 0)",
    ),
    "study": ("rlrs run CONFIG --dry-run",),
}
# Without any extra: module -> the extra that its error should name. (`rlrs.integrations.lightning` imports nothing of
# lightning: it works on the module that lightning hands to it.)
MISSING = {
    "rlrs.integrations.transformers": "transformers",
    "rlrs.integrations.accelerate": "accelerate",
    "rlrs.integrations.optax": "jax",
    "rlrs.integrations.torchtitan": "torchtitan",
    "rlrs.cli": "study",
}


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command in a folder; whether it went well, and the end of what it said if not."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = done.stderr.strip().splitlines()
    return {"ok": done.returncode == 0, "said": "" if done.returncode == 0 else " | ".join(said[-2:])}


def install(folder: Path, extra: str) -> tuple[Path, dict[str, Any]]:
    """A new environment with one extra; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    what = f"{ROOT}[{extra}]" if extra else str(ROOT)
    constraints = str(ROOT / "constraints.txt")
    return python, run([str(python), "-m", "pip", "install", "--quiet", "-c", constraints, what], folder)


def try_extra(extra: str) -> list[dict[str, Any]]:
    """Install one extra and run what it is for."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, installed = install(folder / "venv", extra)
        rows = [{"extra": extra, "what": "install", **installed}]
        for use in USES[extra]:
            if use.endswith(".py"):
                command = [str(python), str(ROOT / "examples" / use)]
            elif use.startswith("rlrs "):
                words = use.replace("CONFIG", str(ROOT / "configs" / "demo.yaml")).split()
                command = [str(python.parent / words[0]), *words[1:]]
            else:
                command = [str(python), "-c", use]
            rows.append({"extra": extra, "what": use, **run(command, folder)})
        return rows


def try_none() -> list[dict[str, Any]]:
    """No extra: the core, and the errors of what is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, installed = install(folder / "venv", "")
        rows = [{"extra": "", "what": "install", **installed}]
        rows.append({"extra": "", "what": "core", **run([str(python), "-c", _STEP + "o.step(); s.step()"], folder)})
        for module, extra in MISSING.items():
            done = subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, text=True, cwd=folder)
            last = (done.stderr.strip().splitlines() or ["imported without its extra"])[-1]
            rows.append({"extra": "", "what": module, "ok": f"rlrs[{extra}]" in last, "said": last})
        return rows


def main() -> None:
    wanted = sys.argv[1:] or ["", *USES]
    path = RESULTS / "extras_alone.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [row for row in kept if row["extra"] not in wanted]
    for extra in wanted:
        new = try_extra(extra) if extra else try_none()
        for row in new:
            print("ok   " if row["ok"] else "FAILS", row["extra"] or "none", row["what"][:60], row["said"], flush=True)
        rows += new
        write("extras_alone", rows, RESULTS)
    sys.exit(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    main()
