"""Describe a connection by its meta, and keep that in an attachment.

An attachment is one version byte and a msgpack array of definition name, schema version and meta.
Who stores it, and when, is decided elsewhere.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from typing import Any, Generic

import msgspec
from msgspec import Struct

from ..errors import InvalidArguments, TooLarge, VeraniError
from ..names import MAX_CHANNELS, check_name

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

__all__ = [
    "AttachmentCodec",
    "AttachmentError",
    "ConnectionMeta",
    "FIXED_FIELDS",
    "M",
    "check_names",
    "check_own_field",
    "make_id",
    "make_meta",
    "set_channels",
    "undeclared",
]

FIXED_FIELDS = frozenset({"user_id", "client_id", "channels"})


def make_id() -> str:
    """Make the id of a user or a client that no other has."""
    return os.urandom(16).hex()


class ConnectionMeta(Struct, kw_only=True):
    """Who a connection is; subclass it to add fields of your own.

    `user_id`, `client_id` and `channels` are fixed once connected: `join` and `leave` change the channels. A client id
    is made where none is given. Own fields may be set in a hook; the change is kept when the hook returns and undone
    when it raises.
    """

    user_id: str
    client_id: str = msgspec.field(default_factory=make_id)
    channels: tuple[str, ...] = ("default",)

    def __setattr__(self, name: str, value: Any) -> None:
        check_own_field(self, name)
        try:
            super().__setattr__(name, value)
        except AttributeError as error:
            if hasattr(type(self), name):  # a property of the subclass, which says what it wants to
                raise
            raise undeclared(self, name) from error


# The default (PEP 696) lets a bare `Context`, `Actor` or `Session` mean the one with the plain meta.
M = TypeVar("M", bound=ConnectionMeta, default=ConnectionMeta)


def make_meta(kind: type[M], given: ConnectionMeta | Mapping[str, Any]) -> M:
    """Make a meta of one type from one of any type, or from a mapping of fields by their names or wire names.

    Fields that `given` lacks have their defaults. Raises `msgspec.ValidationError` for what does not fit.
    """
    if isinstance(given, kind):
        return given
    wire_names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    if isinstance(given, ConnectionMeta):
        given = {name: value for name, value in msgspec.structs.asdict(given).items() if name in wire_names}
    return msgspec.convert({wire_names.get(name, name): value for name, value in given.items()}, kind)


def check_own_field(meta: ConnectionMeta, name: str) -> None:
    """Raise AttributeError for a field that hooks may not set."""
    if name in FIXED_FIELDS:
        advice = "use join() and leave()" if name == "channels" else "it is fixed when the client connects"
        raise AttributeError(f"{type(meta).__name__}.{name} is read-only: {advice}")


def undeclared(meta: ConnectionMeta, name: str) -> AttributeError:
    """Make the error for a field that hooks set and the type of the meta does not have."""
    kind = type(meta)
    advice = ": expected it in a subclass of ConnectionMeta, the meta= of define_room" if kind is ConnectionMeta else ""
    return AttributeError(f"{kind.__name__} has no field {name!r}{advice}")


def set_channels(meta: ConnectionMeta, channels: tuple[str, ...]) -> None:
    """Change the channels of a meta: the engine's way past the read-only guard."""
    msgspec.structs.force_setattr(meta, "channels", channels)


def check_names(meta: ConnectionMeta) -> None:
    """Raise `InvalidArguments` for names that may not pass and for too many channels, TypeError for no strings."""
    try:
        check_name(meta.user_id, "user_id")
        check_name(meta.client_id, "client_id")
        if len(meta.channels) > MAX_CHANNELS:
            raise ValueError(f"expected at most {MAX_CHANNELS} channels, got {len(meta.channels)}")
        for channel in meta.channels:
            check_name(channel, "channel")
    except ValueError as error:
        raise InvalidArguments(str(error)) from error


class AttachmentError(VeraniError):
    """An attachment of another definition, another schema or no attachment at all."""


class AttachmentCodec(Generic[M]):
    """Encode and decode the attachments of one definition.

    Encoding is canonical, so equal bytes mean an unchanged meta.
    """

    VERSION = 1

    def __init__(self, definition: str, meta: type[M], schema: int, max_bytes: int) -> None:
        self._definition = definition
        self._meta = meta
        self._schema = schema
        self._max_bytes = max_bytes
        encoder = msgspec.msgpack.Encoder()
        self._encode = encoder.encode
        # A msgpack array of three, of which the first two never change.
        self._prefix = bytes([self.VERSION, 0x93]) + encoder.encode(definition) + encoder.encode(schema)
        self._decode = msgspec.msgpack.Decoder(meta).decode
        self._decode_foreign = msgspec.msgpack.Decoder(tuple[str, int, msgspec.Raw]).decode

    def encode(self, meta: M) -> bytes:
        """Encode without checking; raises TypeError that names the field which msgspec cannot encode."""
        try:
            return self._prefix + self._encode(meta)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            for field in msgspec.structs.fields(meta):
                try:
                    self._encode(getattr(meta, field.name))
                except (TypeError, ValueError, OverflowError, RecursionError) as cause:
                    raise TypeError(f"{type(meta).__name__}.{field.name}: {cause}") from cause
            raise TypeError(f"{type(meta).__name__}: {error}") from error

    def check(self, attachment: bytes) -> M:
        """Return the meta that a rebuilt room would see.

        Raises `TooLarge`, or TypeError that names the field whose value does not fit its annotation.
        """
        if len(attachment) > self._max_bytes:
            raise TooLarge(
                f"{self._meta.__name__}: expected at most {self._max_bytes} bytes of meta, got {len(attachment)}"
            )
        try:
            return self.decode(attachment)
        except AttachmentError as error:
            raise TypeError(f"{self._meta.__name__}: {error.__cause__ or error}") from error

    def admit(self, meta: ConnectionMeta) -> bytes:
        """Check the meta of somebody who wants to connect, and return the first attachment.

        Raises `InvalidArguments` for names that may not pass and for too many channels or bytes, and TypeError, which
        is the application's fault, for values that do not fit.
        """
        check_names(meta)
        try:
            attachment = self.encode(meta)  # type: ignore[arg-type]  # `check` finds out whether it is an M
            # Of a plain meta, `check_names` has seen everything.
            is_plain = type(meta) is ConnectionMeta is self._meta and type(meta.channels) is tuple
            if not is_plain or len(attachment) > self._max_bytes:
                self.check(attachment)
        except (ValueError, TooLarge) as error:
            raise InvalidArguments(str(error)) from error
        return attachment

    def copy(self, meta: M) -> M:
        """Copy a meta, nested values included; much faster than `copy.deepcopy` where the meta fits its type."""
        try:
            return self._decode(self._encode(meta))
        except Exception:  # the change of a hook that is still running need not fit yet  # noqa: BLE001
            return copy.deepcopy(meta)

    def decode(self, attachment: bytes) -> M:
        """Read an attachment back; raises `AttachmentError` for anything this definition did not write."""
        if not attachment.startswith(self._prefix):
            raise AttachmentError(self._foreign(attachment))
        try:
            return self._decode(attachment[len(self._prefix) :])
        except BaseException as error:  # besides msgspec's errors, whatever a __post_init__ of the user's raises
            raise AttachmentError(f"unreadable attachment of {self._definition!r}") from error

    def _foreign(self, attachment: bytes) -> str:
        expected = f"expected an attachment of {self._definition!r}, schema {self._schema}"
        if attachment[:1] != bytes([self.VERSION]):
            return f"{expected}, got format version {attachment[:1].hex() or 'nothing'}"
        try:
            name, schema, _ = self._decode_foreign(memoryview(attachment)[1:])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return f"{expected}, got unreadable bytes"
        return f"{expected}, got {name!r}, schema {schema}"
