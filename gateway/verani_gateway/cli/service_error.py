"""Say why a command got nothing from a service."""

from __future__ import annotations

from verani.errors import VeraniError

__all__ = ["ServiceError"]


class ServiceError(VeraniError):
    """The service cannot be reached, or does not answer as expected."""
