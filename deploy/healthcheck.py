"""Say whether Verani on this machine does its work: exit code 0 or 1, for HEALTHCHECK and for probes.

A machine with gateways is asked for `/ready`; one with room hosts only must take links. Only the environment
is read, so a container has its settings there, not in options or in verani.toml. Standard library only: it is
started again and again.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys

# Those of verani.settings.Settings, which would take longer to import than the question takes.
DEFAULTS = {
    "VERANI_PORT": "8000",
    "VERANI_INTERNAL_HOST": "127.0.0.1",
    "VERANI_GATEWAYS": "1",
    "VERANI_ADVERTISE": "127.0.0.1",
    "VERANI_LINK_PORT": "8101",
}
PATIENCE = 3.0

# What a listener on every interface is reached by from here.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def value(name: str) -> str:
    """Read a variable of the environment, or its default."""
    return os.environ.get(name, DEFAULTS[name])


def gateways_ready() -> bool:
    """Ask the internal listener; it answers 503 while it drains."""
    host = value("VERANI_INTERNAL_HOST").partition(",")[0].strip()  # all of several are alike
    port = int(os.environ.get("VERANI_INTERNAL_PORT", int(value("VERANI_PORT")) + 1))
    connection = http.client.HTTPConnection(_HERE.get(host, host), port, timeout=PATIENCE)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def hosts_listen() -> bool:
    """Open a connection where the first room host takes links."""
    with socket.create_connection((value("VERANI_ADVERTISE"), int(value("VERANI_LINK_PORT"))), timeout=PATIENCE):
        return True


def main() -> int:
    """Return the exit code."""
    try:
        return 0 if (gateways_ready() if int(value("VERANI_GATEWAYS")) else hosts_listen()) else 1
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
