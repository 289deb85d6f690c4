"""Refuse shapes of a service that cannot work, before anything of it starts."""

from __future__ import annotations

from verani.errors import SettingsError
from verani.settings import Settings
from verani_actors.upkeep.runtime import DEFAULT_ADMIN_PORT

from ..config import CLUSTER_SECRET, Secrets, check, check_tokens
from ..http.host_port import is_loopback

__all__ = ["check_shape", "leader_address"]


def check_shape(settings: Settings, secrets: Secrets, *, leader: str) -> None:
    """Refuse what cannot work; raises `SettingsError`."""
    check(settings)
    if settings.gateways:
        check_tokens(settings, secrets)
    if not settings.hosts and not leader:
        raise SettingsError(
            f"hosts 0 keeps the rooms in the one gateway process: expected --hosts of at least 1 with"
            f" --gateways {settings.gateways}"
        )
    if not settings.hosts and not settings.gateways:
        raise SettingsError("expected --hosts or --gateways of at least 1, got 0 of both")
    if (leader or not is_loopback(settings.advertise)) and secrets.cluster_secret is None:
        raise SettingsError(f"a service on several machines needs one secret: expected {CLUSTER_SECRET} to be set")
    if leader and is_loopback(settings.advertise):
        raise SettingsError(
            f"the other machines cannot reach this one at {settings.advertise}: expected --advertise with an address"
            " that they can reach"
        )


def leader_address(text: str) -> str:
    """Read HOST or HOST:PORT, the port being that of the leader's actor system; raises `SettingsError`."""
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(DEFAULT_ADMIN_PORT)
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare and bare == host) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"expected the leader as HOST or HOST:PORT, got {text!r}")
    return f"{host}:{port}"
