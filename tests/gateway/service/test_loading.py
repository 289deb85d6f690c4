"""A target is found, or one sentence says what was expected and what came."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from aiohttp import web

from verani.errors import DefinitionError
from verani.room.definition import define_room
from verani.settings import Settings
from verani_gateway.application import GATEWAY
from verani_gateway.service.banner import Served
from verani_gateway.service.loading import describe, load_application, load_target, served_by

Write = Callable[[str, str], None]

ROOMS = """
    from verani.room.definition import define_room
    chat = define_room("chat", websocket_path="/ws/{room}")
    game = define_room("game", websocket_path="/game")
    text = "not a room"
"""

APPLICATION = """
    from aiohttp import web
    from verani.room.definition import define_room
    from verani.settings import Settings
    from verani_gateway.application import setup
    bare = web.Application()
    app = web.Application()
    setup(app, define_room("chat"))
    fixed = web.Application()
    setup(fixed, define_room("chat"), settings=Settings(max_unread=3))
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file below the current directory, which is empty and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip(), encoding="utf-8")

    return write


def _refusal(*targets: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        load_application(targets, Settings())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_room_definition_is_mounted_in_an_application_with_the_settings(write: Write) -> None:
    write("rooms_a.py", ROOMS)
    settings = Settings(max_unread=7)
    gateway = load_application(["rooms_a:chat"], settings)[GATEWAY]
    assert [definition.name for definition in gateway.definitions] == ["chat"]
    assert gateway.settings is settings


def test_several_room_definitions_share_one_application(write: Write) -> None:
    write("rooms_b.py", ROOMS)
    gateway = load_application(["rooms_b:chat", "rooms_b:game"], Settings())[GATEWAY]
    assert [definition.name for definition in gateway.definitions] == ["chat", "game"]


def test_an_application_is_served_as_it_is_and_gets_the_settings(write: Write) -> None:
    write("served.py", APPLICATION)
    settings = Settings(max_unread=7)
    application = load_application(["served:app"], settings)
    assert application is sys.modules["served"].app
    assert application[GATEWAY].settings is settings


NESTED = """
    from aiohttp import web
    from verani.room.definition import define_room
    from verani_gateway.application import setup
    chat = define_room("chat", websocket_path="/ws/{room}")
    rooms = web.Application()
    setup(rooms, chat)
    api = web.Application()
    api.add_subapp("/v1/", rooms)
    app = web.Application()
    app.add_subapp("/api/", api)
    host = web.Application()
    inner = web.Application()
    setup(inner, define_room("chat"))
    host.add_domain("chat.test", inner)
    twice = web.Application()
    one, other = web.Application(), web.Application()
    setup(one, define_room("one"))
    setup(other, define_room("other"))
    twice.add_subapp("/one", one)
    twice.add_subapp("/other", other)
"""


def test_rooms_of_a_sub_application_are_found_however_deep(write: Write) -> None:
    write("nested.py", NESTED)
    settings = Settings(max_unread=7)
    application = load_application(["nested:app"], settings)
    assert application is sys.modules["nested"].app
    assert application[GATEWAY] is sys.modules["nested"].rooms[GATEWAY]
    assert application[GATEWAY].settings is settings
    assert describe(["nested:app"], settings) == [Served("chat", "/api/v1/ws/{room}", True, "nested:chat")]
    assert served_by(load_application(["nested:host"], settings)[GATEWAY]) == [Served("chat", "/ws", True)]


def test_two_sub_applications_with_rooms_are_told_to_share_one_call(write: Write) -> None:
    write("nested.py", NESTED)
    assert _refusal("nested:twice").startswith("nested:twice: expected one call of setup for an application and its")


def test_settings_given_to_setup_stay(write: Write) -> None:
    write("fixed.py", APPLICATION)
    assert load_application(["fixed:fixed"], Settings())[GATEWAY].settings.max_unread == 3


def test_a_module_inside_a_package_is_found(write: Write) -> None:
    write("package_a/rooms.py", ROOMS)
    assert load_target("package_a.rooms:chat") is sys.modules["package_a.rooms"].chat


def test_the_current_directory_comes_first_on_the_path(write: Write, tmp_path: Path) -> None:
    write("elsewhere/shadowed.py", "raise RuntimeError")
    write("shadowed.py", ROOMS)
    sys.path.insert(0, str(tmp_path / "elsewhere"))
    load_target("shadowed:chat")
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("target", "guess"),
    [
        ("app", "; did you mean app:NAME?"),
        ("app:", "; did you mean app:NAME?"),
        (":chat", ""),
        ("", ""),
        ("app.py:chat", "; did you mean app:chat?"),
        ("./src/app.py:chat", "; did you mean src.app:chat?"),
        ("app:chat.room", "; did you mean app:NAME?"),
        ("app:chat:room", "; did you mean app:NAME?"),
        ("app..x:chat", ""),
        ("--help\n", ""),
    ],
)
def test_what_is_no_target_is_refused_before_anything_is_imported(target: str, guess: str) -> None:
    assert _refusal(target) == f"expected MODULE:NAME such as app:room, got {target!r}{guess}"


@pytest.mark.usefixtures("write")
def test_a_module_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    for name in ("absent_module", "absent_package.module"):
        expected = f"module {name!r} was not found; searched {tmp_path} and the installed packages"
        assert _refusal(f"{name}:chat") == expected


def test_an_import_inside_the_module_that_fails_is_not_the_module_missing(write: Write) -> None:
    write("needs.py", "import os\nimport absent_dependency\n")
    expected = "importing needs failed at needs.py:2: ModuleNotFoundError: No module named 'absent_dependency'"
    assert _refusal("needs:chat") == expected


def test_a_failing_import_is_told_where_it_happened_also_in_another_file(write: Write) -> None:
    write("outer.py", "import inner\n")
    write("inner.py", "import json\n\njson.loads('{')\n")
    assert _refusal("outer:chat").startswith("importing outer failed at inner.py:3: JSONDecodeError: ")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("broken_syntax", "x = 1\nx = = 2\n", "broken_syntax.py:2: SyntaxError: invalid syntax"),
        ("raises", "x = 1\nraise ValueError('no good')\n", "raises.py:2: ValueError: no good"),
        ("asserts", "assert False\n", "asserts.py:1: AssertionError"),
        ("leaves", "import sys\nsys.exit(3)\n", "leaves.py:2: SystemExit: 3"),
        (
            "wrong_room",
            "from verani import define_room\ndefine_room('a b')\n",
            "wrong_room.py:2: DefinitionError: define_room: expected a name",
        ),
    ],
)
def test_a_module_that_raises_is_told_with_file_and_line(write: Write, name: str, text: str, expected: str) -> None:
    write(f"{name}.py", text)
    assert _refusal(f"{name}:chat").startswith(f"importing {name} failed at {expected}")


def test_ctrl_c_during_an_import_is_not_an_error_of_the_module(write: Write) -> None:
    write("interrupted.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_target("interrupted:chat")


def test_a_missing_name_is_told_with_what_could_be_meant(write: Write) -> None:
    write("rooms_c.py", ROOMS)
    assert _refusal("rooms_c:chta") == "rooms_c:chta: module rooms_c has no 'chta'; did you mean chat?"
    assert _refusal("rooms_c:zzz") == "rooms_c:zzz: module rooms_c has no 'zzz'; it has chat, game"
    write("nothing.py", "")
    assert _refusal("nothing:chat") == "nothing:chat: module nothing has no 'chat'"


def test_a_wrong_type_is_told_with_what_was_expected(write: Write) -> None:
    write("rooms_d.py", ROOMS)
    assert _refusal("rooms_d:text") == (
        "rooms_d:text: expected a room definition (define_room) or an aiohttp application with rooms"
        " (verani_gateway.setup), got an object of type str"
    )


def test_an_application_without_rooms_is_told_to_call_setup(write: Write) -> None:
    write("served_b.py", APPLICATION)
    assert _refusal("served_b:bare").endswith("got an application on which setup was not called")


def test_an_application_stands_alone(write: Write) -> None:
    write("rooms_e.py", ROOMS)
    write("served_c.py", APPLICATION)
    assert _refusal("rooms_e:chat", "served_c:app") == (
        "expected room definitions only, or one application,"
        " got rooms_e:chat (a room definition), served_c:app (an application)"
    )
    assert "served_c:app (an application), served_c:fixed (an application)" in _refusal(
        "served_c:app", "served_c:fixed"
    )


def test_definitions_are_what_the_core_makes() -> None:
    assert isinstance(define_room("any").name, str)
    assert GATEWAY not in web.Application()


# --- addresses -----------------------------------------------------------------------------------------


def test_room_hosts_find_definitions_by_module_and_name(write: Write) -> None:
    write("rooms.py", ROOMS)
    assert describe(["rooms:chat", "rooms:game"], Settings()) == [
        Served("chat", "/ws/{room}", True, "rooms:chat"),
        Served("game", "/game", True, "rooms:game"),
    ]


def test_a_definition_is_looked_for_where_the_application_is_first(write: Write) -> None:
    write("rooms.py", ROOMS)
    mount = "from aiohttp import web\nfrom verani_gateway.application import setup\napp = web.Application()\n"
    write("site_a.py", f"from rooms import chat as talk\n{mount}setup(app, talk)\n")
    write("site_b.py", f"import rooms\n{mount}setup(app, rooms.game)\n")
    assert [served.address for served in describe(["site_a:app"], Settings())] == ["site_a:talk"]
    assert [served.address for served in describe(["site_b:app"], Settings())] == ["rooms:game"]


def test_a_definition_that_no_module_has_is_refused_by_name(write: Write) -> None:
    write("made.py", APPLICATION)
    with pytest.raises(DefinitionError, match=r"room definition 'chat' of made:app cannot be found by room hosts: "):
        describe(["made:app"], Settings())
