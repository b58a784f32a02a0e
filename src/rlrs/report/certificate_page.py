"""The page of a certificate: one file that opens offline, made from certificate.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rlrs.files import write_atomic
from rlrs.records import Certificate, Estimate, RecordError, read_certificate
from rlrs.report import text
from rlrs.report.curves import ReportError
from rlrs.report.wording import Wording
from rlrs.words import Language


def write_certificate_page(study_folder: str | Path, language: Language = "en") -> Path:
    """Write `certificate.html`, or `certificate.ja.html`, from a study's `certificate.json`.

    Args:
        study_folder: the run directory.
        language: `en` or `ja`.

    Returns:
        Path of the page.

    Raises:
        ReportError: there is no certificate, or it cannot be used.
    """
    folder = Path(study_folder)
    try:
        certificate = read_certificate(folder / "certificate.json")
    except FileNotFoundError:
        raise ReportError(
            f"{folder / 'certificate.json'}: there is none yet; run rlrs certify STUDY.yaml, whose study has a ladder"
        ) from None
    except RecordError as error:
        raise ReportError(str(error)) from None
    path = folder / ("certificate.html" if language == "en" else f"certificate.{language}.html")
    write_atomic(path, _render(certificate, Wording(language)))
    return path


def _render(certificate: Certificate, words: Wording) -> str:
    loader = jinja2.PackageLoader("rlrs.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        nats=_span(text.nats, words),
        difference=_span(lambda value: text.difference(value, 3), words),
        percent=_span(lambda value: text.percent(value, 0), words),
        rate=_span(text.rate, words),
        count=text.count,
        value=lambda value: text.number(value, ".4g"),
        loss=text.nats,
        arm_name=words.arm,
        component_name=words.component,
        recorded=words.recorded,
    )
    environment.globals.update(t=words, w=words)
    return environment.get_template("certificate.html.j2").render(
        style=Markup(loader.get_source(environment, "style.css")[0]),
        c=certificate,
        language=words.language,
        means=_means(certificate),
    )


def _span(shown: Any, words: Wording) -> Any:
    """A filter for an estimate: its value and interval, each as `shown` writes it."""

    def write(estimate: Estimate | None) -> str:
        if estimate is None:
            return text.NONE
        return words(
            "again.number", value=shown(estimate.value), range=words.span(shown(estimate.low), shown(estimate.high))
        )

    return write


def _means(certificate: Certificate) -> list[dict[str, Any]]:
    """Rung by rung, the mean loss of every arm."""
    rows = []
    for rung in certificate.rungs:
        means = {}
        for arm, own in rung.arms.items():
            losses = [loss for loss in own.losses if loss is not None]
            means[arm] = sum(losses) / len(losses) if len(losses) == len(own.losses) else None
        rows.append({"rung": rung, "means": means})
    return rows
