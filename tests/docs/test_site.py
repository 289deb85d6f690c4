"""`mkdocs.yml` makes a site of all pages, and nothing of it comes from elsewhere; `make docs` builds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.guide import DOCUMENTS, ROOT

# The tag calls a function of Python's, which is for MkDocs to do.
CONFIG: dict[str, Any] = msgspec.yaml.decode(re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text()))


def pages(nav: Any) -> Iterator[str]:
    """List the pages of a navigation, in order."""
    match nav:
        case str():
            yield nav
        case dict():
            for inner in nav.values():
                yield from pages(inner)
        case _:
            for inner in nav:
                yield from pages(inner)


def test_the_navigation_has_every_page_once() -> None:
    listed = list(pages(CONFIG["nav"]))
    of_docs = {page.removeprefix("docs/") for page in DOCUMENTS if page.startswith("docs/")}
    assert len(listed) == len(set(listed))
    assert of_docs - set(listed) == set()
    # Documents beside docs/ are brought in by the hook, under their own paths.
    assert [page for page in listed if page not in of_docs and page not in DOCUMENTS] == []


def test_a_page_begins_with_its_title() -> None:
    assert [page for page in DOCUMENTS if not (ROOT / page).read_text().startswith("# ")] == []


def test_nothing_is_loaded_from_the_web() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "analytics"} & CONFIG.keys()
