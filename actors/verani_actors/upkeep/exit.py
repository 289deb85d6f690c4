"""End a process after a while, whatever it does then."""

from __future__ import annotations

import os
import threading
from typing import Final

__all__ = ["EXIT_GRACE", "end_in"]

# Seconds for what is to end while nobody waits for it any more, or what has nothing to finish.
EXIT_GRACE: Final = 2.0


def end_in(seconds: float, code: int) -> None:
    """End this process with an exit code after so many seconds: a hook may block, or a thread never end."""
    end = threading.Timer(seconds, os._exit, (code,))
    end.daemon = True
    end.start()
