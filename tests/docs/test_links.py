"""Links between files of the repository lead somewhere; anchors within the site are checked by `make docs`."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/*.md")})
MADE = {"docs/cli.md"}
"""Pages that only the site has."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_file_leads_to_one(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert [link for link in missing if str((page.parent / link).relative_to(ROOT)) not in MADE] == []


def test_every_page_of_the_site_is_in_its_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f": {page.name}\n" not in text] == []


def test_both_readmes_have_the_same_code_and_figures():
    """The Japanese page has commands of its own after those of the English one."""
    english, japanese = ((ROOT / name).read_text() for name in ("README.md", "README.ja.md"))
    blocks = [re.findall(r"```\w*\n.*?```", text, flags=re.DOTALL) for text in (english, japanese)]
    assert [block for block in blocks[0] if block not in blocks[1]] == []
    shares = [re.findall(r"\*{0,2}(\d+ %)\*{0,2} \| (\d+)(?: to |〜)(\d+) %", text) for text in (english, japanese)]
    assert shares[0] == shares[1]
    assert len(shares[0]) == 2
