"""The rule of docs/architecture.md: imports run one way, and the core needs torch, numpy and PyYAML only."""

import ast
import collections
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "rlrs"
LAYERS = [
    {"files", "messages", "extras", "restarts", "schedules", "components", "slices", "named_groups", "pace", "muon"},
    {"yaml_files"},
    {"ratios", "words", "component_rules"},
    {"param_groups", "presets", "muon_presets", "lr_scheduler", "moments"},
    {"verify", "_verify", "discovery"},
    {"integrations", "settings", "records", "runs"},
    {"models"},
    {"data", "training", "inspection", "environment", "audit", "monitoring"},
    {"search", "transfer", "comparison", "drift"},
    {"report"},
    {"study", "rollout", "doctor", "grouping"},
    {"live"},
    {"cli"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
CORE = set().union(*LAYERS[:5])


def modules():
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


def top(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """Modules that a file imports, also where it is used only: in a function, or for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(name):
    """The file of ours that a name is imported from: of a submodule itself, or of the package or module that has it."""
    parts = name.split(".")
    if parts[0] != "rlrs":
        return None
    for length in (len(parts), len(parts) - 1):
        place = SOURCE.parent.joinpath(*parts[:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if length and path.is_file():
                return path
    return None


def test_every_module_has_a_layer():
    assert {top(path) for path in modules()} == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    for name in imports(path):
        if name.startswith("rlrs.") and (other := name.split(".")[1]) in LEVEL:
            assert LEVEL[other] <= LEVEL[top(path)], f"{top(path)} imports {other}, which is above it"


def test_no_file_imports_itself_by_way_of_others():
    graph = {path: {files(name) for name in imports(path)} - {None, path} for path in modules()}
    done = set()

    def visit(path, trail):
        assert path not in trail, " -> ".join(str(p.relative_to(SOURCE)) for p in [*trail[trail.index(path) :], path])
        if path not in done:
            for other in sorted(graph.get(path, ())):
                visit(other, [*trail, path])
            done.add(path)

    for path in graph:
        visit(path, [])


def test_settings_import_nothing_of_ours_but_the_core():
    own = {
        name.split(".")[1] for path in (SOURCE / "settings").glob("*.py") for name in imports(path) if "rlrs." in name
    }
    assert own <= {"settings", "messages", "yaml_files"}


def test_yaml_is_read_and_written_in_one_place():
    users = [top(path) for path in modules() if any(name.split(".")[0] == "yaml" for name in imports(path))]
    assert users == ["yaml_files"]


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
        assert not [n for n in imports(path) if n.startswith(("torch", "rlrs.models", "rlrs.training"))]


def test_the_report_and_the_reader_of_results_load_neither_trainer_nor_search():
    code = "import sys, rlrs.report, rlrs.comparison; "
    code += "print([m for m in ('rlrs.models', 'rlrs.training', 'rlrs.search', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]


def test_no_two_test_files_have_one_name():
    """Pytest imports them by that name alone: of two it would run one, or none."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_two_files_and_no_two_classes_have_one_name():
    names = [path.name for path in modules() if path.name != "__init__.py"]
    for path in modules():
        tree = ast.parse(path.read_text())
        names += [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert not {name for name, count in collections.Counter(names).items() if count > 1}


def test_every_public_name_is_there():
    names = sorted({".".join(path.parent.relative_to(SOURCE.parent).parts) for path in SOURCE.rglob("__init__.py")})
    for name in names:
        package = importlib.import_module(name)
        assert all(hasattr(package, public) for public in getattr(package, "__all__", ()))
