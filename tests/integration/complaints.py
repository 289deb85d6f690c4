"""Collect what a browser complains of in a page: errors of scripts, and errors and warnings of its console."""

from __future__ import annotations

from collections.abc import Callable

from playwright.async_api import ConsoleMessage, Page

__all__ = ["complaints_of"]


def complaints_of(page: Page, is_expected: Callable[[ConsoleMessage], bool]) -> list[str]:
    """Return the list that complaints of this page are added to from now on, but for what a test expects to be said."""
    complaints: list[str] = []

    def listen(said: ConsoleMessage) -> None:
        if said.type in ("error", "warning") and not is_expected(said):
            complaints.append(f"{said.text} ({said.location['url']})")

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints
