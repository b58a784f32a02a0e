"""How to install what an extra of rlrs brings: the one place that says so."""

from __future__ import annotations


def install(extra: str) -> str:
    """The command that installs an extra, for the message of an ImportError.

    Examples:
        >>> install("study")
        "pip install -e '.[study]' in a checkout of rlrs"
    """
    return f"pip install -e '.[{extra}]' in a checkout of rlrs"
