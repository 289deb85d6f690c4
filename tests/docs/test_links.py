"""Every link of every document leads somewhere: to a file, to a heading, or to what may be an address."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.guide import DOCUMENTS, ROOT, Guide

_LINK = re.compile(r"\]\(([^)\s]+)\)|<(https?://[^>\s]+)>|\bsrc=\"([^\"]+)\"")


def links(page: str) -> list[str]:
    """List the targets of the links and pictures of a document."""
    prose = re.sub(r"`[^`\n]+`", "", Guide(page).prose)
    return ["".join(found) for found in _LINK.findall(prose)]


def slug(heading: str) -> str:
    """Make the anchor of a heading, as forges and our site do."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """List the anchors of a document."""
    prose = Guide(page.relative_to(ROOT).as_posix()).prose
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}


def leads_nowhere(page: str, link: str) -> bool:
    """Say whether a link is broken; of the web only the form of an address is looked at."""
    parts = urlsplit(link)
    if parts.scheme:
        return parts.scheme not in ("http", "https", "mailto") or "." not in f"{parts.netloc}{parts.path}"
    target = (ROOT / page).parent / parts.path if parts.path else ROOT / page
    if not target.exists() or not target.resolve().is_relative_to(ROOT):
        return True
    return bool(parts.fragment) and parts.fragment not in anchors(target.resolve())


@pytest.mark.parametrize("page", DOCUMENTS)
def test_every_link_leads_somewhere(page: str) -> None:
    assert [link for link in links(page) if leads_nowhere(page, link)] == []


def test_links_are_found_and_judged() -> None:
    assert len(links("docs/index.md")) > 20
    assert leads_nowhere("docs/index.md", "nothing.md")
    assert leads_nowhere("docs/index.md", "../../outside.md")
    assert leads_nowhere("docs/index.md", "security.md#no-such-heading")
    assert leads_nowhere("docs/index.md", "https://")
    assert not leads_nowhere("docs/index.md", "security.md#pages-and-names")
    assert not leads_nowhere("docs/index.md", "https://www.rfc-editor.org/rfc/rfc6455")
