"""Read the arguments of the command line; options are made from the fields of `Settings`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import inspect

from verani.room.methods import MAX_TIMEOUT
from verani.version import __version__

from ..config import CONFIG_VARIABLE, SETTINGS, Setting, suggest

__all__ = ["PROGRAM", "parse"]

PROGRAM: Final = "verani"

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

_VALUES: Final = "arguments; a value is JSON, or else text: text=5 is a number, and 'text=\"5\"' a text"

_JOIN_DESCRIPTION: Final = """\
Serve more of the rooms of a service whose leader runs on another machine: --hosts is the number of room hosts that
this machine adds, --gateways that of gateways. Both machines need the same VERANI_CLUSTER_SECRET, and --advertise
with an address by which the others reach this one. Settings are those of verani serve.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; argparse raises `SystemExit` for its own errors."""
    parser = argparse.ArgumentParser(PROGRAM, description="Realtime rooms.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
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
    new = commands.add_parser(
        "new",
        help="make a small project that runs",
        description="Make a folder with a room, a page, a test, a Makefile and a Dockerfile.",
        allow_abbrev=False,
    )
    new.add_argument("name", metavar="NAME", help="name of the folder, and of the Python module in it")
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
    types = commands.add_parser(
        "types",
        help="write the types of rooms for TypeScript",
        usage="%(prog)s [options] MODULE:NAME [MODULE:NAME ...]",
        description="Write a .d.ts with an interface for each room definition: what its rooms send (@room.event) and"
        " take (@room.on), as new VeraniClient<Chat>(...) wants to know it. Nothing is served.",
        allow_abbrev=False,
    )
    types.add_argument("targets", nargs="+", metavar="MODULE:NAME", help="what verani serve would be given")
    types.add_argument("-o", "--output", metavar="FILE", help="file to write (default: standard output)")
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
    call.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help=_VALUES)
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
