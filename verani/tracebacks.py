"""Keep an exception that is stored from holding, by its traceback, the frames that it went through.

A frame holds its variables, so an exception that is reachable from one of them would be a cycle: it, and all that they
know, would wait for the garbage collector.
"""

from __future__ import annotations

__all__ = ["forget_traceback"]


def forget_traceback(error: object) -> None:
    """Let go of the frames that an exception, and what it came from, went through; anything else is ignored."""
    if isinstance(error, BaseException) and error.__traceback__ is not None:
        error.__traceback__ = None
        forget_traceback(error.__cause__)
        forget_traceback(error.__context__)
