"""Set what Thespian reads from the environment, before it is imported.

Names and formats are those of the installed source; one that is wrong would be ignored without a word.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["MAX_PENDING_TRANSMITS", "prepare"]

# One stopped peer with 20 pending sends (its default) stops all sends of an actor to everybody.
MAX_PENDING_TRANSMITS: Final = 2000

_VARIABLES: Final = {
    "THESPIAN_MAX_PENDING_TRANSMITS": str(MAX_PENDING_TRANSMITS),
    # Minutes and seconds. Its default is 5 minutes.
    "THESPIAN_TRANSMIT_TIMEOUT_PERIOD": "0:05",
    # The same on all machines; the defaults notice a machine's death after 22 minutes.
    "CONVENTION_REREGISTRATION_PERIOD": "0:05",
    "CONVENTION_RESTART_PERIOD": "0:05",
    "CONVENTION_REGISTRATION_MISS_MAX": "2",
    # No file in the temporary folder, and no words that its parser stumbles over.
    "THESPLOG_FILE_MAXSIZE": "0",
    "THESPLOG_FILE": os.devnull,
    "THESPLOG_THRESHOLD": "WARNING",
}


def prepare(address: str) -> None:
    """Set the environment; `address` is the IPv4 address to listen on."""
    os.environ.update(_VARIABLES)
    os.environ["THESPIAN_BASE_IPADDR"] = address
    os.environ.setdefault("TZ", ":/etc/localtime")
