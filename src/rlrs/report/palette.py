"""Colours and dashes of the report: one look per component and per arm, the same in every figure and table.

Light-theme colours are the keys that the page's script maps to their dark twins. The sets were chosen so that
any two stay apart for normal, deuteranope and protanope sight (OKLab distance of 0.08 or more; simulation of
Machado et al., 2009), with a contrast of 3:1 or more on their ground; dashes repeat the distinction.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """A line's colour on light and on dark ground, `#rrggbb`, and its dash as plotly names it."""

    light: str
    dark: str
    dash: str = "solid"

    @property
    def dasharray(self) -> str:
        """The dash as SVG's `stroke-dasharray`, for legends outside of plotly."""
        return {"solid": "none", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 4"}[self.dash]


COMPONENTS = {
    "embedding": Look("#2b80dc", "#6f8dff"),
    "position": Look("#6a6f78", "#a9afb8", "dot"),
    "attention": Look("#bb8000", "#f4cc3a", "dot"),
    "feed_forward": Look("#472da0", "#b8b9ff", "longdash"),
    "experts": Look("#a34300", "#f07d22"),
    "shared_experts": Look("#5d6b14", "#c6d36a", "dash"),
    "router": Look("#007d83", "#8ef0d1", "dashdot"),
    "norm": Look("#7a7f88", "#8f96a0", "dash"),
    "unembedding": Look("#84194f", "#cb7ba4", "dash"),
    "other": Look("#8a8f97", "#7f868f", "dashdot"),
}
ARMS = {
    "uniform": Look("#747d89", "#b4bcc6", "dash"),
    "per_optimizer": Look("#1f2f7a", "#4a66d9", "dashdot"),
    "mup_width": Look("#1d6f6a", "#7fd0c8", "dot"),
    "head_only": Look("#8a5a3c", "#d0a58a", "longdash"),
    "frozen_embedding": Look("#2f6f9f", "#86b7dc", "longdash"),
    "layer_decay": Look("#9a2f6a", "#e08bbb", "dot"),
    "lora_plus": Look("#4f6b1e", "#b5cf7a", "dashdot"),
    "embedding_only": Look("#6d28a8", "#9d86f5", "dot"),
    "constant": Look("#b07000", "#f0c04a", "dashdot"),
    "rlrs": Look("#0a6b42", "#2fc587"),
}
RANKS = (
    Look("#0b5d7d", "#86d7f7"),
    Look("#4d92b1", "#4d96b8"),
    Look("#94b8c9", "#356b85"),
    Look("#c3d2da", "#2c4a5a"),
)
"""Quarters of a search's trials, the best first: the better, the further from the ground."""
EARLY = Look("#8f7fb0", "#7d6ba3", "dot")
"""What was ended early."""
WRONG = Look("#b8321f", "#ff8a78", "dot")
"""What diverged."""
INK = Look("#1c2126", "#e4e7ea")
MUTED = Look("#59616c", "#9fa8b3")
GRID = Look("#e3e6ea", "#2b3138")


def component_look(name: str) -> Look:
    """The look of a component; names that the library does not know share that of `other`."""
    return COMPONENTS.get(name, COMPONENTS["other"])


def arm_look(name: str) -> Look:
    """The look of an arm; an unknown one is drawn in plain ink."""
    return ARMS.get(name, INK)


def parameter_look(name: str) -> Look:
    """The look of a searched parameter: its component's; plain ink for the base."""
    component = name.rpartition(".")[0]
    return component_look(component.partition("/")[0]) if component else MUTED


def dark_twins() -> dict[str, str]:
    """Light colour -> dark colour, of everything that a figure may draw."""
    looks = [*COMPONENTS.values(), *ARMS.values(), *RANKS, EARLY, WRONG, INK, MUTED, GRID]
    return {look.light: look.dark for look in looks}
