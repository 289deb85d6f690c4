"""Read the command line: `verani serve`, `join`, `rooms`, `cluster`, `drain`, `restart`, `call` and `--version`.

Options are made from the fields of `Settings`. A wrong name, value or target ends with exit code 2, a
service that cannot start with 1, both with one sentence on standard error. What the supervisor of several processes
starts is not shown in the help.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import inspect

from verani.errors import VeraniError
from verani.room.methods import MAX_TIMEOUT
from verani.settings import Settings
from verani.version import __version__
from verani_actors.upkeep.fresh import import_from_source
from verani_actors.upkeep.lifeline import die_with_parent

from ..config import CONFIG_VARIABLE, SETTINGS, Setting, load, load_secrets, suggest, unknown_variables
from ..service.gateway_logs import printable, set_up_logging
from ..service.serve import run
from ..service.sockets import ListenError
from .call import call_room
from .members import check_restart, check_target, drain, restart, show_cluster
from .rooms import ServiceError, show_quarantine, show_rooms

__all__ = ["main"]

logger = logging.getLogger(__name__)

_PROGRAM: Final = "verani"
_FAILED: Final = 1
_WRONG_USE: Final = 2
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count

# Where --help shows a setting: by the start of its name, so that a new setting always has a place.
_GROUPS: Final = MappingProxyType(
    {
        "processes and machines": ("hosts", "gateways", "machine", "advertise", "admin_", "link_", "lease"),
        "listeners": ("host", "port", "unix_", "internal_"),
        "browsers and proxies": ("public_", "allowed_", "trusted_"),
        "rooms": ("hibernate_", "min_awake", "max_awake_", "hook_"),
        "calls": ("rpc_", "max_rpc_"),
        "limits": ("max_", "rate_"),
        "connections and stopping": ("header_", "ping_", "pong_", "drain_"),
        "other settings": ("",),
    }
)

_DESCRIPTION: Final = """\
Serve rooms. Every setting below is also a key of verani.toml (rate_limit) and an environment variable
(VERANI_RATE_LIMIT); options win over the environment, the environment over the file. Tokens of the
internal listener come only from VERANI_RPC_TOKEN and VERANI_ADMIN_TOKEN, or from the files that
VERANI_RPC_TOKEN_FILE and VERANI_ADMIN_TOKEN_FILE name. With --hosts, rooms live in processes of their own; a service
on several machines needs VERANI_CLUSTER_SECRET (or VERANI_CLUSTER_SECRET_FILE), the same on all of them.
"""


_JOIN_DESCRIPTION: Final = """\
Serve more of the rooms of a service whose leader runs on another machine: --hosts is the number of room hosts that
this machine adds, --gateways that of gateways. Both machines need the same VERANI_CLUSTER_SECRET, and --advertise
with an address by which the others reach this one. Settings are those of verani serve.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; argparse raises `SystemExit` for its own errors."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # which names of rooms need not fit into
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        match arguments:
            case ["definitions", *targets]:
                return _definitions(targets)
            case ["gateway", folder, *targets]:
                return _gateway(folder, targets)
        parsed = _parse(arguments)
        match parsed.command:
            case "serve" | "join":
                return _serve(parsed, arguments)
            case "rooms":
                return _rooms(parsed)
            case "cluster":
                return _cluster(parsed)
            case "drain":
                return _drain(parsed)
            case "restart":
                return _restart(parsed)
            case _:
                return _call(parsed)
    except (ListenError, ServiceError) as error:
        return _fail(error, _FAILED)
    except VeraniError as error:
        return _fail(error, _WRONG_USE)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except KeyboardInterrupt:  # before the service took over the signals
        return _INTERRUPTED


def _serve(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    options = {name: value for name, value in vars(parsed).items() if name in SETTINGS}
    settings = load(options, os.environ, config=parsed.config)
    secrets = load_secrets(os.environ)
    set_up_logging(settings)
    if parsed.reload:
        return _reload(arguments, settings)
    if unknown := unknown_variables(os.environ):
        known = [setting.variable for setting in SETTINGS.values()]
        # The prefix they share makes all of them alike.
        named = ", ".join(name + suggest(name, known, likeness=0.85) for name in unknown)
        logger.warning("unknown environment variable, ignored: %s", named)
    leader = parsed.leader if parsed.command == "join" else ""
    if leader or settings.hosts or settings.gateways != 1:
        from ..service.shape import leader_address
        from ..service.supervisor import supervise

        leader = leader_address(leader) if leader else ""
        return supervise(parsed.targets, settings, secrets, leader=leader, until_eof=parsed.until_eof)
    from ..service.loading import load_application  # here, so that a wrong option is told without importing everything

    return run(load_application(parsed.targets, settings), settings, secrets, until_eof=parsed.until_eof)


def _definitions(targets: Sequence[str]) -> int:
    """Import the targets for the supervisor, and print what they serve as JSON."""
    die_with_parent(os.getppid())
    # What the targets print while they are imported must not get in between.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from ..service.loading import describe

    import_from_source(str(Path.cwd()))

    served = msgspec.json.encode(describe(targets, Settings()))
    with os.fdopen(answer, "wb") as file:
        file.write(served)
    with suppress(OSError):  # nobody reads what the targets have printed, or there is no room for it
        sys.stdout.flush()
    os._exit(0)  # threads that the targets have started would go on


def _gateway(folder: str, targets: Sequence[str]) -> int:
    from ..service.gateway_process import run_gateway

    return run_gateway(folder, targets, load_secrets(os.environ))


def _cluster(parsed: argparse.Namespace) -> int:
    show_cluster(parsed.url, load_secrets(os.environ), as_json=parsed.json, watch=parsed.watch)
    return 0


def _drain(parsed: argparse.Namespace) -> int:
    drain(parsed.url, load_secrets(os.environ), check_target(parsed.target, everything=parsed.all))
    return 0


def _restart(parsed: argparse.Namespace) -> int:
    restart(parsed.url, load_secrets(os.environ), check_restart(parsed.target, rolling=parsed.rolling))
    return 0


def _rooms(parsed: argparse.Namespace) -> int:
    if parsed.quarantine:
        show_quarantine(parsed.url, load_secrets(os.environ), as_json=parsed.json)
        return 0
    show_rooms(parsed.url, load_secrets(os.environ), as_json=parsed.json, watch=parsed.watch, limit=parsed.limit)
    return 0


def _call(parsed: argparse.Namespace) -> int:
    secrets = load_secrets(os.environ)
    call_room(parsed.url, secrets, parsed.room, parsed.method, parsed.arguments, timeout=parsed.timeout, key=parsed.key)
    return 0


def _reload(arguments: Sequence[str], settings: Settings) -> int:
    try:
        from ..service.reload import supervise  # the package it needs is an extra
    except ModuleNotFoundError as error:
        if error.name != "watchfiles":
            raise
        return _fail("--reload needs watchfiles: pip install watchfiles", _WRONG_USE)
    return supervise(arguments, settings)


def _fail(error: object, code: int) -> int:
    sys.stderr.write(f"{_PROGRAM}: error: {printable(str(error))}\n")
    return code


# --- options -------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(_PROGRAM, description="Realtime rooms.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve rooms",
        usage="%(prog)s [options] MODULE:NAME [MODULE:NAME ...]",
        description=_DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_serve_arguments(serve)
    join = commands.add_parser(
        "join",
        help="add this machine to a service that runs on another",
        usage="%(prog)s [options] LEADER MODULE:NAME [MODULE:NAME ...]",
        description=_JOIN_DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    join.add_argument(
        "leader", metavar="LEADER", help="HOST or HOST:PORT of the machine that runs verani serve (default port: 8100)"
    )
    _add_serve_arguments(join)
    rooms = commands.add_parser(
        "rooms",
        help="show the rooms of a running service",
        description="Show which rooms are awake or asleep, since when, and why.",
        allow_abbrev=False,
    )
    _add_url(rooms)
    rooms.add_argument("--watch", action="store_true", help="print again every second")
    rooms.add_argument(
        "--limit", type=_count, default=1000, metavar="N", help="rooms shown at most, awake ones first (default: 1000)"
    )
    rooms.add_argument("--json", action="store_true", help="print JSON instead of a table")
    rooms.add_argument(
        "--quarantine", action="store_true", help="show what is kept from rooms because it killed room hosts twice"
    )
    cluster = commands.add_parser(
        "cluster",
        help="show the processes of a running service",
        description="Show the room hosts and gateways, their epoch, rooms, connections and links.",
        allow_abbrev=False,
    )
    _add_url(cluster)
    cluster.add_argument("--watch", action="store_true", help="print again every second")
    cluster.add_argument("--json", action="store_true", help="print JSON instead of a table")
    drained = commands.add_parser(
        "drain",
        help="take processes out of a running service",
        description="Let a room host hand over its rooms, or a gateway say goodbye to its clients, and end; return when"
        " it has. verani cluster shows their names.",
        allow_abbrev=False,
    )
    drained.add_argument("target", nargs="?", metavar="host:ID|gateway:ID", help="what to drain")
    drained.add_argument("--all", action="store_true", help="stop the whole service, on every machine")
    _add_url(drained)
    restarted = commands.add_parser(
        "restart",
        help="bring new code into a running service",
        description="Check that the code which is there now can be imported, and start a process anew with it: a room"
        " host hands over its rooms first, a gateway goes when another has taken its place. Return when it serves;"
        " where the code cannot be imported, nothing changes and the exit code is 1.",
        allow_abbrev=False,
    )
    restarted.add_argument("target", nargs="?", metavar="host:ID|gateway:ID", help="what to start anew")
    restarted.add_argument("--rolling", action="store_true", help="every process, one after the other")
    _add_url(restarted)
    call = commands.add_parser(
        "call",
        help="call a room of a running service",
        description="Call a method of a room and print its result as JSON. The token, where the service has one, comes"
        " from VERANI_RPC_TOKEN or the file that VERANI_RPC_TOKEN_FILE names.",
        epilog='example: verani call chat/lobby emit_to_user user_id=ada event=news data=\'{"text": "hi"}\'',
        allow_abbrev=False,
    )
    call.add_argument("room", metavar="DEFINITION/ROOM", help="whole name of the room")
    call.add_argument("method", metavar="METHOD", help="a built-in method, or one of the definition's own")
    call.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="arguments; a value is JSON, or else text")
    _add_url(call)
    call.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="N", help="seconds to wait for the result (default: 5)"
    )
    call.add_argument("--key", metavar="TEXT", help="idempotency key: with the same key the call runs once")
    _check_command(parser, arguments, commands.choices)
    parsed, left = parser.parse_known_args(arguments)
    command = commands.choices[parsed.command]
    if options := [word for word in left if word.startswith("-") and word != "-"]:
        # Only the option's name: what follows it may be a secret that someone tried to pass this way.
        names = [word.partition("=")[0] for word in options]
        known = [option for action in command._actions for option in action.option_strings]
        command.error(f"unknown option {', '.join(name + suggest(name, known) for name in names)}")
    if left:
        _take_rest(command, parsed, left)
    return parsed


def _check_command(parser: argparse.ArgumentParser, arguments: Sequence[str], known: Iterable[str]) -> None:
    """Say what is wrong with the first word, which argparse looks for where it is not."""
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        return
    word = arguments[0].partition("=")[0]
    if word.startswith("-"):
        parser.error(f"expected a command before {word}: {', '.join(known)}")
    if word not in known:
        parser.error(f"unknown command {word!r}{suggest(word, known) or '; expected one of ' + ', '.join(known)}")


def _take_rest(command: argparse.ArgumentParser, parsed: argparse.Namespace, words: list[str]) -> None:
    """Add words that stand after an option to a list that began before it, which argparse does not."""
    for action in command._actions:
        if not action.option_strings and action.nargs in ("+", "*"):
            getattr(parsed, action.dest).extend(words)
            return
    command.error(f"unexpected {', '.join(map(repr, words))}")


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8001",
        help="internal listener of the service (default: http://127.0.0.1:8001)",
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a number from 0 up, got {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most {MAX_TIMEOUT:g} seconds, got {text}")
    return seconds


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="MODULE:NAME",
        help="a room definition, or an aiohttp application with rooms; several room definitions are served together",
    )
    parser.add_argument(
        "--config",
        default=None,
        metavar="FILE",
        help=f"settings file (default: {CONFIG_VARIABLE}, else verani.toml where there is one)",
    )
    parser.add_argument(
        "--reload", action="store_true", default=False, help="restart when source files below this directory change"
    )
    parser.add_argument("--until-eof", action="store_true", default=False, help=argparse.SUPPRESS)
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}
    for setting in SETTINGS.values():
        title = next(title for title, starts in _GROUPS.items() if setting.name.startswith(starts))
        groups[title].add_argument(setting.option, dest=setting.name, help=_help(setting), **_form(setting))


def _form(setting: Setting) -> dict[str, Any]:
    """Give argparse what depends on the type; values stay text, so that errors come from one place."""
    if setting.is_flag:
        return {"action": argparse.BooleanOptionalAction}
    if setting.is_list:
        return {"action": "append", "metavar": "A,B"}
    match setting.kind:
        case inspect.LiteralType(values=values):
            return {"metavar": "|".join(map(str, values))}
        case inspect.IntType() | inspect.FloatType():
            return {"metavar": "N"}
        case _:
            return {"metavar": "TEXT"}


def _help(setting: Setting) -> str:
    text = setting.description
    if "default:" not in text:
        default = setting.default
        shown = "none" if default == () else f"{default:.15g}" if isinstance(default, float) else str(default)
        text += f" (default: {shown})"
    return text.replace("%", "%%")
