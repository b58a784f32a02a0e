"""The rule of docs/architecture.md: imports run one way, and the core needs torch, numpy and PyYAML only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "rlrs"
LAYERS = [
    {"files", "schedules", "ratios", "components", "slices", "named_groups", "pace", "extras"},
    {"param_groups", "lr_scheduler"},
    {"integrations"},
    {"settings", "records", "models", "data", "training", "inspection", "environment"},
    {"search", "comparison"},
    {"report"},
    {"study"},
    {"cli", "terminal", "watching"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
CORE = LAYERS[0] | LAYERS[1]


def modules():
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def top(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            yield node.module


def test_every_module_has_a_layer():
    assert {top(path) for path in modules()} == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    for name in imports(path):
        if name.startswith("rlrs."):
            other = name.split(".")[1]
            assert LEVEL[other] <= LEVEL[top(path)], f"{top(path)} imports {other}, which is above it"


@pytest.mark.parametrize("path", [p for p in modules() if top(p) in CORE], ids=lambda path: path.stem)
def test_the_core_imports_torch_numpy_and_yaml_only(path):
    third_party = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert third_party <= {"rlrs", "torch", "numpy", "yaml"}


def test_importing_the_package_loads_no_extra():
    extras = ["optuna", "pydantic", "tokenizers", "typer", "rich", "plotly", "jinja2", "scipy", "transformers"]
    # A worker of a search imports the trainer too; the planner of checkpoints is slow to import.
    slow = ["torch.distributed.checkpoint", "torch.distributed.tensor"]
    code = f"import sys, rlrs; print([m for m in {extras} if m in sys.modules])\n"
    code += f"import rlrs.search; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_the_report_never_loads_a_model():
    for path in (SOURCE / "report").rglob("*.py"):
        assert not {"torch", "rlrs.models", "rlrs.training"} & set(imports(path))


def test_no_two_test_files_have_one_name():
    """Pytest imports them by that name alone: of two it would run one, or none."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
