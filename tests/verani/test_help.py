"""What `help()` says of the names that applications import."""

from __future__ import annotations

import importlib
import pydoc
import re

import pytest

MODULES = [
    "verani",
    "verani.auth",
    "verani.client",
    "verani.connect",
    "verani.errors",
    "verani.testing",
    "verani_gateway",
]


@pytest.mark.parametrize("module", MODULES)
def test_help_cites_no_paragraphs_of_documents_that_readers_do_not_have(module: str) -> None:
    loaded = importlib.import_module(module)
    for name in loaded.__all__:
        if isinstance(getattr(loaded, name), str | tuple):
            continue
        text = pydoc.plain(pydoc.render_doc(getattr(loaded, name)))
        assert not re.findall(r".*(?:protocol|threats?|section|design) \d.*", text), name
