"""Obey the command line: `verani serve`, `join`, `new`, `types`, `rooms`, `cluster`, `drain`, `restart`, `call`.

A wrong name, value or target ends with exit code 2, a service that cannot start with 1, both with one sentence on
standard error. What the supervisor of several processes starts is not shown in the help. Each command imports what it
alone needs.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from verani.errors import VeraniError
from verani.settings import Settings
from verani_actors.upkeep.fresh import import_from_source
from verani_actors.upkeep.lifeline import die_with_parent
from verani_actors.upkeep.log_lines import printable
from verani_actors.upkeep.logs import log_to_stderr, writes_json

from ..config import SETTINGS, VARIABLES, load, load_secrets, suggest, unknown_variables
from ..service.gateway_logs import set_up_logging
from ..service.sockets import ListenError
from .arguments import PROGRAM, parse
from .service_error import ServiceError

__all__ = ["main"]

logger = logging.getLogger(__name__)

_FAILED: Final = 1
_WRONG_USE: Final = 2
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count


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
        parsed = parse(arguments)
        match parsed.command:
            case "serve" | "join":
                return _serve(parsed, arguments)
            case "new":
                return _new(parsed)
            case "rooms":
                return _rooms(parsed)
            case "cluster":
                return _cluster(parsed)
            case "drain":
                return _drain(parsed)
            case "restart":
                return _restart(parsed)
            case "types":
                return _types(parsed)
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
        # The prefix they share makes all of them alike.
        named = ", ".join(name + suggest(name, VARIABLES, likeness=0.85) for name in unknown)
        logger.warning("unknown environment variable, ignored: %s", named)
    leader = parsed.leader if parsed.command == "join" else ""
    if leader or settings.hosts or settings.gateways != 1:
        from ..service.shape import leader_address
        from ..service.supervisor import supervise

        leader = leader_address(leader) if leader else ""
        return supervise(parsed.targets, settings, secrets, leader=leader, until_eof=parsed.until_eof)
    # Here, so that a wrong option is told, and several processes are supervised, without importing everything.
    from ..service.loading import load_application
    from ..service.serve import run

    return run(load_application(parsed.targets, settings), settings, secrets, until_eof=parsed.until_eof)


def _definitions(targets: Sequence[str]) -> int:
    """Import the targets for a process that is to be restarted, and print what they serve as JSON."""
    die_with_parent(os.getppid())
    log_to_stderr("error", "text")
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


def _new(parsed: argparse.Namespace) -> int:
    from .new import ProjectError, make_project, next_steps

    try:
        project = make_project(parsed.name, Path.cwd())
    except ProjectError as error:
        return _fail(error, _FAILED)
    sys.stdout.write(next_steps(project.name))
    return 0


def _cluster(parsed: argparse.Namespace) -> int:
    from .members import show_cluster

    show_cluster(parsed.url, load_secrets(os.environ), as_json=parsed.json, watch=parsed.watch)
    return 0


def _drain(parsed: argparse.Namespace) -> int:
    from .members import check_target, drain

    drain(parsed.url, load_secrets(os.environ), check_target(parsed.target, everything=parsed.all))
    return 0


def _restart(parsed: argparse.Namespace) -> int:
    from .members import check_restart, restart

    restart(parsed.url, load_secrets(os.environ), check_restart(parsed.target, rolling=parsed.rolling))
    return 0


def _rooms(parsed: argparse.Namespace) -> int:
    from .rooms import show_quarantine, show_rooms

    if parsed.quarantine:
        show_quarantine(parsed.url, load_secrets(os.environ), as_json=parsed.json)
        return 0
    show_rooms(parsed.url, load_secrets(os.environ), as_json=parsed.json, watch=parsed.watch, limit=parsed.limit)
    return 0


def _call(parsed: argparse.Namespace) -> int:
    from .call import call_room

    secrets = load_secrets(os.environ)
    call_room(parsed.url, secrets, parsed.room, parsed.method, parsed.arguments, timeout=parsed.timeout, key=parsed.key)
    return 0


def _types(parsed: argparse.Namespace) -> int:
    from .types import write_types

    write_types(parsed.targets, parsed.output)
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
    if writes_json():
        logger.error("%s", error)
    else:
        sys.stderr.write(f"{PROGRAM}: error: {printable(str(error))}\n")
    return code
