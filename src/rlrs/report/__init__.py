"""The report of a study, and pictures of ratios: self-contained HTML pages that open offline."""

from importlib.util import find_spec

from rlrs.extras import install

for _package in ("plotly", "jinja2", "pydantic"):
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"rlrs.report needs {_package}: {install('report')}", name=_package)

from rlrs.report.ablation_page import write_ablations_page  # noqa: E402
from rlrs.report.across import write_across  # noqa: E402
from rlrs.report.certificate_page import write_certificate_page  # noqa: E402
from rlrs.report.curves import ReportError  # noqa: E402
from rlrs.report.heat_page import write_heat_page  # noqa: E402
from rlrs.report.page import rewrite_reports, write_ratios_page, write_report  # noqa: E402
from rlrs.report.plain import write_summary  # noqa: E402

__all__ = [
    "ReportError",
    "rewrite_reports",
    "write_ablations_page",
    "write_across",
    "write_certificate_page",
    "write_heat_page",
    "write_ratios_page",
    "write_report",
    "write_summary",
]
