"""What documents name exists: commands, options, settings, variables, targets, files, modules, attributes, routes.

`test_blocks.py` reads blocks of code; this reads what is shown as code in a sentence or a table.
"""

from __future__ import annotations

import importlib
import re
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.guide import DOCUMENTS, ROOT, Guide, own_files
from verani import Actor, ConnectRequest, Context, RoomStub, Session, errors
from verani.client import VeraniClient
from verani.testing import HarnessClient
from verani_gateway.cli.main import main
from verani_gateway.config import CONFIG_VARIABLE, SETTINGS, unknown_variables

if TYPE_CHECKING:
    from tests.integration.conftest import Serve

# What has been is not what is.
PAGES = [page for page in DOCUMENTS if page != "CHANGELOG.md"]

CODE = {".py", ".js", ".ts", ".toml", ".yaml", ".yml", ".json", ".html", ".service", ".conf", ".svg", ""}
TREES = ("verani", "actors", "gateway", "tests", "examples", "benchmarks", "deploy", "docs")

# Names that belong to others: to Python and its libraries, to Linux, to nginx, to browsers, to JSON Web Tokens.
OTHERS = {
    *("TypedDict", "ExceptionGroup", "RuntimeError", "SynchronousOnlyOperation", "SessionMiddleware"),
    *("client_max_size", "asyncio_mode", "run_coroutine_threadsafe", "call_soon_threadsafe", "to_thread", "run_app"),
    *("VmRSS", "RLIMIT_NOFILE", "XDG_RUNTIME_DIR", "DJANGO_SETTINGS_MODULE", "PIP_NO_INDEX", "PIP_FIND_LINKS"),
    *("error_log", "reverse_proxy", "enableServiceLinks", "preStop", "StateDirectory", "RuntimeDirectoryMode", "UMask"),
    *("fetch_token", "fetchToken", "ackTimeout", "AuthMiddlewareStack"),  # a reader's own, Socket.IO's, Channels'
    *("_auth_user_id", "on_commit", "getAttribute", "encodeURIComponent", "multiprocTCPBase", "simpleSystemBase"),
}

# Options of other programs that a sentence names without the program.
OTHER_OPTIONS = {"--target", "--quick", "--list", "--record", "--strict", "--experimental-websocket"}


@cache
def sources() -> dict[str, str]:
    """Read all code of the repository, and what its files are called."""
    found = {}
    for tree in TREES:
        for path in own_files(ROOT / tree):
            if path.suffix in CODE:
                found[path.relative_to(ROOT).as_posix()] = path.read_text()
    for name in ("pyproject.toml", "Makefile", "mkdocs.yml"):
        found[name] = (ROOT / name).read_text()
    return found


@cache
def words() -> set[str]:
    """List every word of that code and of these names."""
    text = "\n".join(part for item in sources().items() for part in item)
    return set(re.findall(r"\w+", text)) | OTHERS


def spans(page: str) -> list[str]:
    """List what a page shows as code; what others call it, in a column of a comparison, is theirs."""
    guide = Guide(page)
    prose = ours(guide.prose) if page.startswith("docs/coming-from/") else guide.prose
    return [span.strip() for span in re.findall(r"`([^`\n]+)`", prose)]


def ours(prose: str) -> str:
    """Leave of tables the columns whose heads say that they are ours, of sentences what is not theirs by its name."""
    lines: list[str] = []
    heads: list[str] = []
    for line in prose.splitlines():
        cells = line.strip().strip("|").split("|") if line.startswith("|") else []
        heads = (heads or cells) if cells else []
        kept = [
            cell
            for cell, head in zip(cells, heads, strict=False)
            if re.search(r"\b(?:Verani|here|Python)$", head.removesuffix(" in a browser").strip())
        ]
        lines.append("|".join(kept) if cells else re.sub(r"`(?:socket|io|sio)\b[^`]*`", "", line))
    return "\n".join(lines)


def of_pages() -> list[str]:
    return [page for page in PAGES if spans(page)]


# --- the command line -----------------------------------------------------------------------------------


@cache
def usage(*command: str) -> str:
    """Return what `verani COMMAND --help` prints, or nothing for what is no command."""
    told = StringIO()
    with redirect_stdout(told), redirect_stderr(StringIO()), pytest.raises(SystemExit):
        main([*command, "--help"])
    return told.getvalue()


@cache
def command_names() -> list[str]:
    return re.findall(r"^    ([a-z]+)(?: |$)", usage(), re.MULTILINE)


def has_option(command: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){option}(?![\w-])", usage(command)) is not None


@pytest.mark.parametrize("page", of_pages())
def test_every_command_and_option_exists(page: str) -> None:
    wrong = []
    for span in spans(page):
        program, *rest = span.split()
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        if program == "verani" and rest and rest[0].isalpha():
            known = rest[0] in command_names() and all(has_option(rest[0], option) for option in options)
        elif program.startswith("--"):
            known = program in OTHER_OPTIONS or any(has_option(name, program) for name in command_names())
        else:
            continue
        if not known:
            wrong.append(span)
    assert wrong == []


@pytest.mark.parametrize("page", of_pages())
def test_every_target_of_make_exists(page: str) -> None:
    makefile = sources()["Makefile"].replace("$(VENV)", ".venv")
    named = [word for span in spans(page) if span.startswith("make ") for word in span.split()[1:]]
    targets = [word for word in named if "=" not in word]
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_is_read_by_something(page: str) -> None:
    text = (ROOT / page).read_text()
    named = dict.fromkeys(re.findall(r"\bVERANI_[A-Z_]*[A-Z]\b", text), "")
    named.pop(CONFIG_VARIABLE, None)
    unknown = unknown_variables(named)
    # What tests and benchmarks read is in their code.
    code = "\n".join(text for path, text in sources().items() if not path.startswith(("docs/", "deploy/")))
    assert [variable for variable in unknown if f"{variable}" not in code] == []


# A setting with its default: in a sentence, `hook_timeout` (30 s), and in a table, | `hook_timeout` | 30 s |.
DEFAULT = re.compile(
    r"(?:`(?P<said>\w+)`(?: seconds)? \(|^\| `(?P<listed>\w+)`[^|]*\| )"
    r"(?P<number>\d[\d,.]*\d|\d)(?: (?P<unit>KiB|MiB))?\b",
    re.MULTILINE,
)
UNITS = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20}


def test_every_default_of_a_setting_is_its_default() -> None:
    seen = 0
    wrong = []
    for page in PAGES:
        for found in DEFAULT.finditer(Guide(page).prose):
            setting = SETTINGS.get(found["said"] or found["listed"])
            if setting is not None:
                seen += 1
                if float(found["number"].replace(",", "")) * UNITS[found["unit"]] != setting.default:
                    wrong.append(f"{page}: {found[0]} is {setting.default}")
    assert wrong == []
    assert seen > 15


# --- files, modules and names ---------------------------------------------------------------------------


def is_there(word: str) -> bool:
    """Say whether a path is there, and the test that it may name; `<floor>` stands for any, `{a,b}` for both."""
    name, _, test = word.strip('"').partition("::")
    path = ROOT / re.sub(r"\{(\w+),[^}]*\}", r"\1", name.partition("<")[0])
    return path.exists() and (not test or f"def {test.partition('[')[0]}(" in path.read_text())


@pytest.mark.parametrize("page", of_pages())
def test_every_file_folder_and_test_exists(page: str) -> None:
    trees = tuple(f"{tree}/" for tree in TREES)
    paths = [word for span in spans(page) for word in span.split() if word.strip('"').startswith(trees)]
    label = "verani/caller:"  # of Kubernetes
    assert [path for path in paths if path != label and not is_there(path)] == []


@pytest.mark.parametrize("page", of_pages())
def test_every_module_that_is_run_exists(page: str) -> None:
    found = [re.match(r"(?:\.venv/bin/)?python -m ((?:tests|benchmarks)[\w.]*)", span) for span in spans(page)]
    paths = [f"{module[1].replace('.', '/')}.py" for module in found if module]
    assert [
        path for path in paths if path not in sources() and path.replace(".py", "/__main__.py") not in sources()
    ] == []


@pytest.mark.parametrize("page", of_pages())
def test_every_dotted_name_of_ours_can_be_imported(page: str) -> None:
    named = [found[0] for span in spans(page) if (found := re.match(r"verani(?:_\w+)?(?:\.\w+)+", span))]
    others = ("verani.expiring", "verani.refresh", "verani.refreshed", "verani.dropped", "verani.")  # events
    attributes = ("verani.input", "verani.event", "verani.hook")  # of spans
    files = ("verani.toml", "verani.js", "verani.d.ts")
    assert [name for name in named if name not in others + attributes + files and not is_importable(name)] == []


def is_importable(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


HANDLES = {
    "ctx": Context,
    "ctx.ws": Session,
    "ctx.actor": Actor,
    "actor": Actor,
    "session": Session,
    "request": ConnectRequest,
    "client": VeraniClient,
    "stub": RoomStub,
}


@cache
def of_browsers() -> str:
    """Return the types of the client for browsers, whose methods are not all those of Python's."""
    return sources()["gateway/verani_gateway/browser/verani.d.ts"]


@pytest.mark.parametrize("page", of_pages())
def test_every_attribute_of_a_handle_exists(page: str) -> None:
    missing = []
    for span in spans(page):
        for handle, name in re.findall(r"(?<![\w.])(ctx\.actor|ctx\.ws|ctx|actor|session|client)\.(\w+)", span):
            slots = getattr(HANDLES[handle], "__slots__", ())
            known = hasattr(HANDLES[handle], name) or name in slots or name in ("actor", "live_meta")
            if handle == "client":  # there are three kinds
                known = known or hasattr(HarnessClient, name) or re.search(rf"\b{name}\b", of_browsers()) is not None
            if not known:
                missing.append(span)
    assert missing == []


@pytest.mark.parametrize("page", of_pages())
def test_every_name_with_an_underscore_or_a_hump_is_somewhere_in_the_code(page: str) -> None:
    own = set(re.findall(r"\w+", "\n".join(block.text for block in Guide(page).all_blocks)))
    named = {name for span in spans(page) for name in re.findall(r"\b[A-Za-z]+_\w+|\b[A-Za-z][a-z]+[A-Z]\w*", span)}
    assert sorted(name for name in named - words() - own if not METRIC.match(name)) == []


def test_the_codes_of_errors_are_those_that_hooks_show() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", Guide("docs/hooks.md").prose, re.MULTILINE)
    assert len(rows) == 8
    assert [(name, code) for name, code in rows if getattr(errors, name).code != code] == []


# --- routes and metrics ---------------------------------------------------------------------------------------------

ROUTE = re.compile(r"/(?:ready|rpc|metrics|admin|openapi|asyncapi|inspector|health|verani)[\w./{}%-]*$")
METRIC = re.compile(r"verani_(?!actors|gateway)\w+")
FILLED = {"{definition}": "chat", "{room}": "lobby", "{method}": "get_session_count"}


async def test_every_route_is_answered(serve: Serve) -> None:
    server = await serve("examples.chat:chat")
    routes = {span for page in PAGES for span in spans(page) if ROUTE.match(span)}
    assert len(routes) > 8
    unknown = []
    async with aiohttp.ClientSession() as session:

        async def answers(url: str) -> bool:
            """Say whether something answers, with whatever method it wants; also that a room or name is not there."""
            for method in ("GET", "POST"):
                async with session.request(method, url) as response:
                    if response.status not in (404, 405) or "error" in await response.text():
                        return True
            return False

        for route in sorted(routes):
            path = route
            for placeholder, value in FILLED.items():
                path = path.replace(placeholder, value)
            # Prefixes such as `/rpc` are named, too.
            whole = {"/rpc": "/rpc/chat/lobby/get_session_count", "/admin": "/admin/rooms"}.get(path, path)
            if not (await answers(server.internal + whole) or await answers(server.url + whole)):
                unknown.append(route)
        assert not await answers(f"{server.internal}/admin/no-such-route")
    assert unknown == []
    assert await server.stop() == 0


async def test_every_metric_is_measured(serve: Serve) -> None:
    named = {found for page in PAGES for span in spans(page) for found in METRIC.findall(span)}
    assert named
    server = await serve("examples.chat:chat", "--hosts", "1")
    async with aiohttp.ClientSession(server.internal) as session, session.get("/metrics") as response:
        measured = set(re.findall(r"^# TYPE (\w+)", await response.text(), re.MULTILINE))
    assert sorted(named - measured) == []
    assert await server.stop() == 0


# --- these tests themselves -----------------------------------------------------------------------------


def test_what_does_not_exist_is_found() -> None:
    assert has_option("serve", "--rate-limit")
    assert not has_option("serve", "--rate")
    assert "serve" in command_names()
    assert "fly" not in command_names()
    assert is_importable("verani.client.VeraniClient")
    assert not is_importable("verani.client.NoSuchClient")
    assert "hibernate_after" in words()
    assert "hibernate_before" + "_lunch" not in words()
    assert is_there("tests/docs/test_names.py::test_what_does_not_exist_is_found")
    assert not is_there("tests/docs/test_names.py::test_what_exists_is_found")
    assert not is_there("tests/no_such_folder/")
