"""Realtime rooms: define them here, serve them with `verani serve`."""

from .connect import Service, connect, connect_sync
from .context import Actor, Context
from .errors import (
    CallCycle,
    CallFailed,
    Conflict,
    DeadlineExceeded,
    DefinitionError,
    Forbidden,
    HookInterrupted,
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
    WrongThread,
)
from .frames import Frame
from .meta import ConnectionMeta
from .request import ConnectRequest, Identified, Identity, TokenVerifier
from .room import RoomDefinition, define_room, public_meta
from .rpc import Call
from .session import Session
from .settings import Settings
from .stub import RoomStub

__all__ = [
    "define_room",
    "connect",
    "connect_sync",
    "public_meta",
    "Actor",
    "Call",
    "ConnectRequest",
    "ConnectionMeta",
    "Context",
    "Frame",
    "Identified",
    "Identity",
    "RoomDefinition",
    "RoomStub",
    "Service",
    "Session",
    "Settings",
    "TokenVerifier",
    "VeraniError",
    "WrongThread",
    "CallCycle",
    "CallFailed",
    "Conflict",
    "DeadlineExceeded",
    "DefinitionError",
    "Forbidden",
    "HookInterrupted",
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
