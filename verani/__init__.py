"""Realtime rooms: define them here, serve them with `verani serve`."""

from typing import TYPE_CHECKING

from .connect import Service, connect, connect_sync
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
from .room.authority import public_meta
from .room.context import Actor, Context
from .room.definition import RoomDefinition, define_room
from .room.meta import ConnectionMeta
from .room.methods import Call
from .room.request import ConnectRequest, Identified, Identity, TokenVerifier
from .room.session import Session
from .room.stub import RoomStub
from .settings import Settings

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

if not TYPE_CHECKING:  # who checks types would believe that any name is here

    def __getattr__(name: str) -> None:
        # An AttributeError would not be shown by `from verani import VeraniClient`.
        if name in ("VeraniClient", "Reconnection"):
            raise ImportError(f"{name} is in verani.client: from verani.client import {name}", name=__name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
