"""How documents are written: a sentence a line in paragraphs, and nothing that is there for its looks."""

from __future__ import annotations

import re

import pytest

from tests.guide import DOCUMENTS, ROOT, Guide

# Where lines are wrapped: pages that are read beside code, and records of what has been.
WRAPPED = ("ARCHITECTURE.md", "CHANGELOG.md", "docs/internals.md", "docs/adr/")

_MARKED = re.compile(r"[|>#-]|\d+\. | ")
_CODE = re.compile(r"`[^`\n]*`|\*\*[^*\n]*\*\*")
_PICTOGRAPH = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")


def sentences(line: str) -> int:
    """Count the sentences of a line: a full stop ends one where a capital follows."""
    return 1 + len(re.findall(r"[\w)\]][.!?] (?=[A-Z])", _CODE.sub("x", line)))


@pytest.mark.parametrize("page", [page for page in DOCUMENTS if not page.startswith(WRAPPED)])
def test_a_paragraph_has_a_sentence_a_line(page: str) -> None:
    lines = [line for line in Guide(page).prose.splitlines() if not _MARKED.match(line) and "<!--" not in line]
    assert [line for line in lines if sentences(line) > 1] == []


@pytest.mark.parametrize("page", DOCUMENTS)
def test_there_are_no_badges_and_no_pictographs(page: str) -> None:
    text = (ROOT / page).read_text()
    assert "shields.io" not in text
    assert "badge" not in text.partition("\n## ")[0]
    assert _PICTOGRAPH.findall(text) == []


def test_sentences_are_counted() -> None:
    assert sentences("One, two; three: four. Five.") == 2
    assert sentences("It says `a. B` and **Bold. More**, e.g. this one.") == 1
