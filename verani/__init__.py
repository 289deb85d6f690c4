"""Realtime rooms: define them here, serve them with `verani serve`."""

from .context import Actor, Context
from .errors import (
    CallCycle,
    CallFailed,
    Conflict,
    DeadlineExceeded,
    DefinitionError,
    Forbidden,
    HookTimeout,
    Interrupted,
    InvalidArguments,
    NotFound,
    RateLimited,
    RoomAsleep,
    RoomBusy,
    SettingsError,
    TooLarge,
    Unauthorized,
    VeraniError,
)
from .frames import Frame
from .meta import ConnectionMeta
from .request import ConnectRequest
from .room import RoomDefinition, define_room, public_meta
from .session import Session
from .settings import Settings

__all__ = [
    "define_room",
    "public_meta",
    "Actor",
    "ConnectRequest",
    "ConnectionMeta",
    "Context",
    "Frame",
    "RoomDefinition",
    "Session",
    "Settings",
    "VeraniError",
    "CallCycle",
    "CallFailed",
    "Conflict",
    "DeadlineExceeded",
    "DefinitionError",
    "Forbidden",
    "HookTimeout",
    "Interrupted",
    "InvalidArguments",
    "NotFound",
    "RateLimited",
    "RoomAsleep",
    "RoomBusy",
    "SettingsError",
    "TooLarge",
    "Unauthorized",
]
