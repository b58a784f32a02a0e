"""The page itself: a template, the words that its script writes, and the colours of the report."""

from __future__ import annotations

import functools

import jinja2

from rlrs.live.watcher import Watcher
from rlrs.report import palette
from rlrs.report.wording import Wording

SAID = (
    *("alarms", "no_alarm", "no_alarm_checked", "recorded", "checked_here", "step", "cause", "remedy", "done"),
    *("whole_model", "threshold", "loss", "train", "valid", "rates", "gradients", "updates", "log_y", "log_x"),
    *("tokens_per_second", "left", "base", "runs", "run", "searches", "best", "trial", "score", "move", "base_rate"),
    *("best_so_far", "ended_of", "at_work", "verdict", "report", "course", "gone", "lost", "updated", "stages"),
    *("stage", "pairs", "looks", "status", "state", "trials", "not_finite", "back", "seconds", "minutes", "hours"),
)
"""Keys under `live.label.` that the page's script writes."""
STATES = ("waiting", "running", "finished", "failed", "stale")
KINDS = ("run", "study", "rollout")
PLACES = ("proxy", "target", "ladder")
ENTRIES = (
    *("begun", "resumed", "data", "ratios", "certificate", "alarm", "decision", "override", "sign_off", "ended"),
    *("failed", "torn"),
)


@functools.lru_cache(maxsize=4)
def page(watcher: Watcher) -> str:
    """The page of a watcher, without its data."""
    words = Wording(watcher.words.language)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlrs.live"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    said = {key: words(f"live.label.{key}") for key in SAID}
    said |= {f"state.{state}": words(f"live.state.{state}") for state in STATES}
    said |= {f"kind.{kind}": words(f"live.kind.{kind}") for kind in KINDS}
    said |= {f"place.{place}": words(f"live.place.{place}") for place in PLACES}
    said |= {f"entry.{kind}": words(f"live.entry.{kind}") for kind in ENTRIES}
    said |= {f"component.{name}": words.component(name) for name in palette.COMPONENTS}
    said |= {f"arm.{name}": words.arm(name) for name in palette.ARMS}
    looks = {
        **{f"component.{name}": vars(look) for name, look in palette.COMPONENTS.items()},
        **{f"arm.{name}": vars(look) for name, look in palette.ARMS.items()},
        **{"ink": vars(palette.INK), "muted": vars(palette.MUTED), "grid": vars(palette.GRID)},
        **{"wrong": vars(palette.WRONG), "early": vars(palette.EARLY)},
    }
    return environment.get_template("live.html.j2").render(
        words=words, language=words.language, said=said, looks=looks, paths=[str(path) for path in watcher.paths]
    )
