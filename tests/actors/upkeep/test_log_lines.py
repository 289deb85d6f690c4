"""A line of the log is one record, whatever names, payloads and errors hold."""

from __future__ import annotations

import logging
import sys

import msgspec
import pytest

from verani_actors.upkeep.log_lines import JsonFormatter, TextFormatter


def _record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("verani", logging.INFO, __file__, 1, message, arguments, None)
    vars(record).update(extra)
    return record


# --- text ----------------------------------------------------------------------------------------------


def _formatted(name: str, message: str, *arguments: object, **extra: object) -> str:
    record = logging.LogRecord(name, logging.INFO, __file__, 1, message, arguments, None)
    vars(record).update(extra)
    return TextFormatter().format(record)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("verani", "[Verani] hello"),
        ("verani.room.definition", "[Verani] hello"),
        ("verani_actors.rooms.host", "[Verani] hello"),
        ("verani_gateway.service.serve", "[Verani] hello"),
        ("veranika", "veranika: hello"),
        ("aiohttp.server", "aiohttp.server: hello"),
        ("root", "root: hello"),
    ],
)
def test_only_what_this_project_says_has_the_prefix(name: str, expected: str) -> None:
    assert _formatted(name, "hello").endswith(f" INFO {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nINFO fake", r"a\nINFO fake"),
        ("a\r\x1b[2J\x00", r"a\r\x1b[2J\x00"),
        ("\u202eevil\u2028", r"\u202eevil\u2028"),
        ("\udc80", r"\udc80"),
        ("\U000e0001\t", r"\U000e0001\t"),
        ("żółw ☃ 👍", "żółw ☃ 👍"),
    ],
)
def test_what_could_forge_a_line_is_escaped(text: str, expected: str) -> None:
    assert _formatted("verani", "got %s", text).endswith(f"[Verani] got {expected}")
    assert _formatted("verani", "got it", room=text).endswith(f"[Verani] got it room={expected}")


def test_whom_a_record_is_about_follows_the_message() -> None:
    about = {"hook": "on_connect", "user": "ann", "connection": "c1", "room": "chat/lobby", "gateway": "", "other": 1}
    line = _formatted("verani", "hook failed", **about)
    assert line.endswith("[Verani] hook failed room=chat/lobby connection=c1 user=ann hook=on_connect")


def test_a_name_cannot_look_like_another_field() -> None:
    line = _formatted("verani", "hook failed", room="chat/lobby", connection="c1")
    assert line.endswith("[Verani] hook failed room=chat/lobby connection=c1")
    line = _formatted("verani", "hook failed", room='chat/a" connection=c9', connection="c1")
    assert line.endswith('[Verani] hook failed room="chat/a\\" connection=c9" connection=c1')


def test_a_traceback_is_indented_so_that_it_cannot_forge_a_line() -> None:
    try:
        raise ValueError("a\n2026-01-01 INFO [Verani] fake\x1b")
    except ValueError:
        record = logging.LogRecord("verani", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    record.stack_info = "Stack:\n  here"
    head, *lines = TextFormatter().format(record).split("\n")
    assert head.endswith("ERROR [Verani] failed")
    assert all(line.startswith("    ") for line in lines)
    assert r"    2026-01-01 INFO [Verani] fake\x1b" in lines
    assert lines[-1] == "      here"


# --- JSON ----------------------------------------------------------------------------------------------


def test_json_has_whom_a_record_is_about_as_fields() -> None:
    record = _record("got %d", 1, room="chat/lobby", connection="c1", user="ann", hook="on_connect", other="no")
    record.created = 1.5
    formatter = JsonFormatter()
    formatter.process = "host:m1-0"
    assert msgspec.json.decode(formatter.format(record)) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "INFO",
        "logger": "verani",
        "message": "got 1",
        "room": "chat/lobby",
        "connection": "c1",
        "user": "ann",
        "hook": "on_connect",
        "process": "host:m1-0",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n{}\r\u2028", "a\n{}\r\u2028"),
        ('"}, {"', '"}, {"'),
        ("\ud800 and \udfff", "\\ud800 and \\udfff"),
        ("\x00\x1b[2J\x7f", "\x00\x1b[2J\x7f"),
        ("żółw 👍", "żółw 👍"),
    ],
)
def test_json_is_one_line_that_strict_readers_take_whatever_names_hold(text: str, expected: str) -> None:
    line = JsonFormatter().format(_record("got %s", text, room=text, user=text))
    assert line.isascii()
    assert line.isprintable()
    found = msgspec.json.decode(line, type=dict[str, str])
    assert (found["message"], found["room"], found["user"]) == (f"got {expected}", expected, expected)


def test_json_has_the_traceback_and_the_stack_as_texts() -> None:
    try:
        raise ValueError("a\nb\udc80")
    except ValueError:
        record = _record("failed")
        record.exc_info = sys.exc_info()
    record.stack_info = "Stack:\n  here"
    found = msgspec.json.decode(JsonFormatter().format(record), type=dict[str, str])
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("\nValueError: a\nb\\udc80")
    assert found["stack"] == "Stack:\n  here"
