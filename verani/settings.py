"""Hold every setting of a service: one frozen type, one name, one default, one sentence each.

Reading options, environment and files is the gateway's job (`verani_gateway.config`); a host receives
this very object. A definition's own `hibernate_after` wins over the setting.
"""

# Annotations are objects here: msgspec and the command line read them in every process, and would parse them each time.
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

__all__ = ["NEVER", "LogFormat", "LogLevel", "RatePolicy", "Settings"]

# How files, options and environment spell `None` for `hibernate_after`.
NEVER = "never"

RatePolicy = Literal["throttle", "drop", "close"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_Port = Annotated[int, Meta(ge=0, le=65535)]
_Count = Annotated[int, Meta(ge=0)]
_Size = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Durations are in seconds, sizes in bytes; 0 switches a limit off where its text says so."""

    host: Annotated[str | tuple[str, ...], Meta(description="addresses of the public listener; :: takes IPv4, too")] = (
        "127.0.0.1"
    )
    port: Annotated[_Port, Meta(description="port of the public listener; 0 takes a free one")] = 8000
    unix_socket: Annotated[
        str | None,
        Meta(description="path of a Unix socket for the public listener, in place of host and port (default: none)"),
    ] = None
    internal_host: Annotated[str | tuple[str, ...], Meta(description="addresses of the internal listener")] = (
        "127.0.0.1"
    )
    internal_port: Annotated[
        _Port | None, Meta(description="port of the internal listener; 0 takes a free one (default: port + 1)")
    ] = None
    internal_hosts: Annotated[
        tuple[str, ...], Meta(description="Host names the internal listener answers to, besides loopback")
    ] = ()
    public_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names the public listener answers to, besides loopback (default: any, and on loopback"
            " none)"
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins that browsers may connect from, besides the same scheme, host and port"),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="addresses or networks whose X-Forwarded-* and Forwarded headers count; unix: Unix sockets"),
    ] = ()

    hosts: Annotated[
        _Count, Meta(description="room host processes of this machine; 0: rooms live in the gateway process")
    ] = 0
    gateways: Annotated[_Count, Meta(description="gateway processes of this machine, which share the port")] = 1
    machine: Annotated[
        str | None, Meta(description="name of this machine among all of the service (default: its host name)")
    ] = None
    advertise: Annotated[str, Meta(description="address by which other machines reach this one")] = "127.0.0.1"
    admin_port: Annotated[
        _Port | None,
        Meta(description="port of the actor system (default: 8100 with --advertise or join, else a free one)"),
    ] = None
    link_port: Annotated[
        _Port,
        Meta(description="first port of the links between machines, with --advertise or join; 0 takes free ones"),
    ] = 8101
    link_cert: Annotated[
        str | None,
        Meta(description="PEM file of the certificate that links show (default: made from the cluster secret)"),
    ] = None
    link_key: Annotated[str | None, Meta(description="PEM file of its private key (default: none)")] = None
    link_ca: Annotated[
        str | None, Meta(description="PEM file of the authority that signed the certificates of links (default: none)")
    ] = None
    tracing: Annotated[
        bool, Meta(description="make OpenTelemetry spans, for the tracer provider that the application sets up")
    ] = False
    link_compression: Annotated[bool, Meta(description="compress the links between machines")] = False
    link_grace: Annotated[_Seconds, Meta(description="seconds that a broken link may take to come back")] = 2.0
    lease: Annotated[_Seconds, Meta(description="seconds that a host serves without hearing of the others")] = 3.0

    hibernate_after: Annotated[
        _Seconds | None, Meta(description="idle seconds after which a room sleeps, or 'never'")
    ] = 10.0
    min_awake: Annotated[
        _Seconds, Meta(description="seconds that a room stays awake at least, however many are awake")
    ] = 1.0
    max_awake_rooms: Annotated[
        _Size, Meta(description="rooms awake above which those idle for the longest time sleep early")
    ] = 10_000
    hook_timeout: Annotated[_Seconds, Meta(description="time budget of one hook, in seconds")] = 30.0
    rpc_timeout: Annotated[_Seconds, Meta(description="seconds that a call may take, unless it says otherwise")] = 5.0
    max_rpc_bytes: Annotated[_Size, Meta(description="bytes of the arguments of one call")] = 1 << 20
    max_rpc_calls: Annotated[_Size, Meta(description="calls that may wait for an answer in this process")] = 1000
    hook_blocked: Annotated[
        _Seconds,
        Meta(description="seconds after which what blocks the event loop is logged, and its room host replaced"),
    ] = 5.0

    max_header_bytes: Annotated[
        _Size, Meta(description="bytes of a request's line and headers, a handshake's included")
    ] = 16384
    max_discard_bytes: Annotated[
        _Count, Meta(description="bytes of a request's body that nobody asked for, thrown away after the answer")
    ] = 1 << 20
    max_frame_bytes: Annotated[_Size, Meta(description="bytes of the largest frame a client may send")] = 65536
    compression: Annotated[
        bool, Meta(description="compress WebSocket messages for clients that offer it (permessage-deflate)")
    ] = False
    compression_min_bytes: Annotated[_Size, Meta(description="bytes from which on a message is compressed")] = 1024
    max_meta_bytes: Annotated[_Size, Meta(description="bytes of the largest attachment of one connection")] = 16384
    max_send_buffer: Annotated[
        _Size, Meta(description="unsent bytes after which a client that does not read is closed with 1013")
    ] = 1 << 20
    max_invalid_frames: Annotated[
        _Count, Meta(description="invalid frames within 60 s after which to close with 1008; 0: never")
    ] = 16
    max_unread: Annotated[
        _Seconds, Meta(description="seconds that a socket may stay unread before its connection is closed")
    ] = 30.0
    rate_limit: Annotated[float, Meta(ge=0, description="frames a second and connection; 0: no limit")] = 200.0
    rate_limit_per_user: Annotated[
        float, Meta(ge=0, description="frames a second of all connections of one user; 0: no limit")
    ] = 0.0
    rate_limit_per_address: Annotated[
        float, Meta(ge=0, description="frames a second of all connections from one address; 0: no limit")
    ] = 0.0
    rate_limit_bytes: Annotated[
        float, Meta(ge=0, description="bytes of frames a second and connection; 0: no limit")
    ] = float(1 << 20)
    rate_limit_bytes_per_user: Annotated[
        float, Meta(ge=0, description="bytes of frames a second of all connections of one user; 0: no limit")
    ] = 0.0
    rate_limit_bytes_per_address: Annotated[
        float, Meta(ge=0, description="bytes of frames a second of all connections from one address; 0: no limit")
    ] = 0.0
    rate_burst: Annotated[_Size | None, Meta(description="frames that may come at once (default: twice the rate)")] = (
        None
    )
    rate_policy: Annotated[
        RatePolicy, Meta(description="what happens to frames above the rate: throttle, drop or close")
    ] = "throttle"

    max_connections: Annotated[
        _Count | None,
        Meta(description="connections of this process (default: from RLIMIT_NOFILE); 0: no limit"),
    ] = None
    max_connections_per_room: Annotated[_Count, Meta(description="connections in one room; 0: no limit")] = 0
    max_connections_per_address: Annotated[_Count, Meta(description="connections from one address; 0: no limit")] = 0

    header_timeout: Annotated[
        _Seconds, Meta(description="seconds that request headers may take, and that an idle HTTP connection stays open")
    ] = 10.0
    ping_interval: Annotated[_Seconds, Meta(description="seconds of silence after which a WebSocket ping is sent")] = (
        25.0
    )
    pong_timeout: Annotated[
        _Seconds, Meta(description="seconds of silence after a ping until the peer counts as gone")
    ] = 8.0
    drain_seconds: Annotated[_Seconds, Meta(description="seconds that a stop waits for connections and hooks")] = 20.0

    log_level: Annotated[LogLevel, Meta(description="least severe level that is logged")] = "info"
    log_format: Annotated[
        LogFormat, Meta(description="what a line of the log is: text, or json, one object a line")
    ] = "text"

    def __post_init__(self) -> None:
        """Take lists of names, too, which have no hash: verdicts on clients are kept by the names they went by."""
        for field in ("internal_hosts", "public_hosts", "allowed_origins", "trusted_proxies"):
            if isinstance(names := getattr(self, field), list):
                force_setattr(self, field, tuple(names))

    @property
    def public_addresses(self) -> tuple[str, ...]:
        """The addresses of `host`, however many."""
        return _addresses(self.host)

    @property
    def internal_addresses(self) -> tuple[str, ...]:
        """The addresses of `internal_host`."""
        return _addresses(self.internal_host)

    def burst(self, rate: float) -> int:
        """Size of the token bucket for a rate: `rate_burst`, else two seconds' worth of frames."""
        return self.rate_burst if self.rate_burst is not None else max(1, int(2 * rate))


def _addresses(host: str | tuple[str, ...]) -> tuple[str, ...]:
    # In URLs IPv6 addresses have brackets, so some write them everywhere.
    return tuple(each.removeprefix("[").removesuffix("]") for each in ((host,) if isinstance(host, str) else host))
