"""`python -m rlrs.runs.calling package.module:train`: the process of a run whose trainer is a function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlrs.messages import shown
from rlrs.runs.asked import RunError
from rlrs.runs.current import current_run


def function_at(place: str) -> Callable[..., Any]:
    """The function that `package.module:function` or `path/to/file.py:function` names.

    The present folder is looked in too, as `python -m` does.

    Raises:
        RunError: there is none, or importing its module raises.
    """
    module, _, name = place.rpartition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = _file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except FileNotFoundError:
        raise RunError(f"{shown(place)}: there is no file {module} in {Path.cwd()}") from None
    except ModuleNotFoundError as error:
        raise RunError(f"{shown(place)}: no module {error.name!r} from {Path.cwd()}") from None
    except Exception as error:
        raise RunError(f"{shown(place)}: importing it raised {type(error).__name__}: {error}") from error
    function = getattr(found, name, None)
    if not callable(function):
        raise RunError(f"{shown(place)}: the module has no function {name!r}")
    return function


def _file(path: Path) -> Any:
    """A file as a module, with its own folder to import from, as a script has it."""
    if not path.is_file():
        raise FileNotFoundError(path)
    folder = str(path.resolve().parent)
    sys.path[:] = [folder, *(other for other in sys.path if other != folder)]  # its own neighbours before others
    for name in {other.stem for other in Path(folder).glob("*.py")} - sys.stdlib_module_names:
        if Path(getattr(sys.modules.get(name), "__file__", None) or folder).parent != Path(folder):
            sys.modules.pop(name, None)  # of another folder, loaded before; what has it keeps it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Train the current run by the function that the command line names."""
    run = current_run()
    last = function_at(sys.argv[1])(run)
    if run.result is None and isinstance(last, int | float):
        run.finish(valid_loss=last)


if __name__ == "__main__":
    main()
