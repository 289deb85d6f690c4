"""Hold ports for services that must be told a port beforehand, and cannot be given 0."""

from __future__ import annotations

import random
import socket
from typing import Final

__all__ = ["free_port"]

# Below those that the kernel gives out by itself (ip_local_port_range begins at 32768 by default).
_RANGE: Final = range(20_000, 32_000)

# The UDP port of the same number is this process' claim: services leave it alone, and other test processes see it.
_CLAIMS: Final[list[socket.socket]] = []


def free_port() -> int:
    """Return a TCP port that is free, and that no other caller of this is given while this process lives."""
    while True:
        port = random.choice(_RANGE)
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
        else:
            _CLAIMS.append(claim)
            return port
