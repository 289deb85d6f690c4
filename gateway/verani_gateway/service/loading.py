"""Find what `MODULE:NAME` means: room definitions, or an application that mounts some.

Whatever is wrong with a target is told in one sentence, a `DefinitionError`. Nothing is started here.
Where rooms live in processes of their own, a definition must have an address that each of them finds it by.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from aiohttp import web

from verani.errors import DefinitionError
from verani.room.definition import RoomDefinition
from verani.settings import Settings

from ..application import GATEWAY, adopt, mounted, setup
from ..config import suggest
from ..gateway import Gateway
from .banner import Served

__all__ = ["describe", "load_application", "load_target", "served_by", "with_addresses"]

_EXPECTED = "a room definition (define_room) or an aiohttp application with rooms (verani_gateway.setup)"


def describe(targets: Sequence[str], settings: Settings) -> list[Served]:
    """Import every target and give the room definitions it serves, with the addresses that room hosts find them by."""
    return with_addresses(load_application(targets, settings)[GATEWAY], targets)


def with_addresses(gateway: Gateway, targets: Sequence[str]) -> list[Served]:
    """Give the room definitions of a gateway, with the addresses that room hosts find them by."""
    addresses = {definition.name: _address(definition, targets) for definition in gateway.definitions}
    return [msgspec.structs.replace(each, address=addresses[each.name]) for each in served_by(gateway)]


def served_by(gateway: Gateway) -> list[Served]:
    """Give the room definitions of a gateway, with the paths that clients connect to."""
    return [Served(each.name, gateway.resources[each.name].canonical, each.is_public) for each in gateway.definitions]


def _address(definition: RoomDefinition[Any, Any], targets: Sequence[str]) -> str:
    """Find a module that has the definition as an attribute: that of a target first, since it registers handlers."""
    own = [target.partition(":")[0] for target in targets]
    for module_name in dict.fromkeys([*own, *sorted(sys.modules)]):
        # Whatever is there: some packages put objects of their own in sys.modules.
        attributes = getattr(sys.modules.get(module_name), "__dict__", {})
        for name, value in attributes.items():
            if value is definition and module_name != "__main__":
                return f"{module_name}:{name}"
    raise DefinitionError(
        f"room definition {definition.name!r} of {', '.join(targets)} cannot be found by room hosts: expected it to be"
        " assigned to a name at the top of an importable module, not made inside a function or in __main__"
    )


def load_application(targets: Sequence[str], settings: Settings) -> web.Application:
    """Import every target and give the one application that serves them all with these settings.

    Several room definitions are mounted in one new application; an application must be the only target.
    """
    found = [(target, load_target(target)) for target in targets]
    rooms = [thing for _, thing in found if isinstance(thing, RoomDefinition)]
    if len(rooms) == len(found):
        application = web.Application()
        setup(application, *rooms, settings=settings)
        return application
    if len(found) > 1:
        got = ", ".join(f"{target} ({_kind(thing)})" for target, thing in found)
        raise DefinitionError(f"expected room definitions only, or one application, got {got}")
    only = found[0][1]
    assert isinstance(only, web.Application)
    adopt(only).configure(settings)
    return only


def load_target(target: str) -> RoomDefinition[Any, Any] | web.Application:
    """Import the module of `MODULE:NAME`, the current directory first, and return what NAME is there."""
    module_name, separator, name = target.partition(":")
    if not separator or not name.isidentifier() or not _is_module_name(module_name):
        raise DefinitionError(f"expected MODULE:NAME such as app:room, got {target!r}{_guess(module_name, name)}")
    module = _import(module_name)
    if not hasattr(module, name):
        raise DefinitionError(f"{target}: module {module_name} has no {name!r}{_offer(module, name)}")
    thing = getattr(module, name)
    if isinstance(thing, RoomDefinition):
        return thing
    if not isinstance(thing, web.Application):
        raise DefinitionError(f"{target}: expected {_EXPECTED}, got {_kind(thing)}")
    match len(mounted(thing)):
        case 0:
            raise DefinitionError(f"{target}: expected {_EXPECTED}, got an application on which setup was not called")
        case 1:
            return thing
        case calls:
            raise DefinitionError(
                f"{target}: expected one call of setup for an application and its sub-applications, got {calls}; pass"
                " all room definitions to it"
            )


def _is_module_name(text: str) -> bool:
    # "app.py" would import app and then look for a module py inside it.
    return all(part.isidentifier() for part in text.split(".")) and not text.endswith(".py")


def _guess(module_name: str, name: str) -> str:
    guess = module_name.removeprefix("./").removesuffix(".py").replace("/", ".").replace("\\", ".")
    if not _is_module_name(guess):
        return ""
    return f"; did you mean {guess}:{name if name.isidentifier() else 'NAME'}?"


def _offer(module: ModuleType, name: str) -> str:
    """Point to what could have been meant: a close name, else everything that may be served."""
    fitting = [key for key, value in vars(module).items() if isinstance(value, RoomDefinition | web.Application)]
    return suggest(name, fitting) or (f"; it has {', '.join(fitting)}" if fitting else "")


def _kind(thing: object) -> str:
    match thing:
        case RoomDefinition():
            return "a room definition"
        case web.Application():
            return "an application"
        case _:
            return f"an object of type {type(thing).__name__}"


def _import(module_name: str) -> ModuleType:
    directory = str(Path.cwd())
    if sys.path[:1] not in ([""], [directory]):
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise DefinitionError(
                f"module {module_name!r} was not found; searched {directory} and the installed packages"
            ) from error
        raise DefinitionError(_import_failure(module_name, error, directory)) from error
    # The module is the user's and may raise anything, `sys.exit()` included; the sentence says where.
    except (Exception, SystemExit) as error:
        raise DefinitionError(_import_failure(module_name, error, directory)) from error


def _import_failure(module_name: str, error: BaseException, directory: str) -> str:
    what = type(error).__name__
    if text := str(error.msg if isinstance(error, SyntaxError) else error):
        what += f": {text}"
    return f"importing {module_name} failed at {_place(error, directory)}: {what}"


def _place(error: BaseException, directory: str) -> str:
    """Say file and line: of a syntax error, else of the last frame in the user's own files."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename, directory)}:{error.lineno}"
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in frames if frame[0].startswith(directory) and "site-packages" not in frame[0]]
    file, line = (own or frames)[-1]
    return f"{_short(file, directory)}:{line}"


def _short(file: str, directory: str) -> str:
    path = Path(file)
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else file
