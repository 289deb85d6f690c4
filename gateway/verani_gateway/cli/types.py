"""Write the types of rooms for browsers: `verani types`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from verani.errors import SettingsError
from verani.room.contract import contracts_of
from verani.settings import Settings

from .typescript import typescript

__all__ = ["write_types"]


def write_types(targets: Sequence[str], output: str | None) -> None:
    """Import the targets and write the types of their rooms to a file, or print them.

    Raises `DefinitionError` for what cannot be imported or served, `SettingsError` for a file that cannot be written.
    """
    # Here, so that a wrong option is told without importing everything.
    from ..application import GATEWAY
    from ..service.loading import load_application

    with contextlib.redirect_stdout(sys.stderr):  # what a target prints while it is imported is no type
        definitions = load_application(targets, Settings())[GATEWAY].definitions
    head = f"// Written by: verani types {' '.join(targets)}\n\n"
    text = head + typescript(*contracts_of(definitions))
    if output is None:
        sys.stdout.write(text)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"expected --output to be a file that can be written, got {output!r}: {error}") from error
