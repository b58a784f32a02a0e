"""Templates to pages: one HTML file with everything in it."""

from __future__ import annotations

import base64
import functools
import gzip
import html
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from rlrs.report import palette, text
from rlrs.report.drawing import plain
from rlrs.report.origins import Sources
from rlrs.report.wording import Wording

SCRIPT = ("log_x", "log_y", "linear_x", "linear_y", "table", "figure", "copy", "copied", "selected")
"""Keys under `button.` that the page's script writes."""
COLUMNS = ("series", "source")
"""Keys under `column.` of the tables that it makes of figures."""


def render(template: str, words: Wording, sources: Sources | None = None, **context: Any) -> str:
    """A page.

    Args:
        template: name of the file.
        words: of the page's language.
        sources: places of the numbers in results.json, if the page has such.
        context: what the template names.
    """
    loader = jinja2.PackageLoader("rlrs.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def place(name: str) -> Markup:
        """The attribute that says where the number of an element is from."""
        return Markup("") if sources is None else Markup(f' data-from="{html.escape(sources(name))}"')

    environment.globals.update(t=words, w=words, place=place)
    environment.filters.update(
        nats=text.nats,
        difference=text.difference,
        percent=text.percent,
        share=text.share,
        count=text.count,
        compact=text.compact,
        rate=text.rate,
        ratio=text.ratio,
        arm_look=palette.arm_look,
        component_look=palette.component_look,
        figure_json=plain,
    )
    script = {key: words(f"button.{key}") for key in SCRIPT} | {key: words(f"column.{key}") for key in COLUMNS}
    return environment.get_template(template).render(
        # Our own and plotly's text, not a study's: the only parts that are not escaped.
        style=Markup(loader.get_source(environment, "style.css")[0]),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        plotly_notice=Markup(_plotly()[0]),
        plotly=Markup(_plotly()[1]),
        labels=script,
        dark_twins=palette.dark_twins(),
        language=words.language,
        **context,
    )


@functools.cache
def _plotly() -> tuple[str, str]:
    """The notice of plotly's bundle, and the bundle compressed: a third of its size, which is most of the page's."""
    source = (files("rlrs.report") / "templates" / "plotly-basic.min.js").read_bytes()
    notice = source[: source.index(b"*/") + 2].decode()
    return notice, base64.b64encode(gzip.compress(source, 9, mtime=0)).decode()
