"""What the words behind `verani call` mean."""

from __future__ import annotations

import re

import pytest

from verani.errors import SettingsError
from verani_gateway.cli.call import parse_arguments
from verani_gateway.cli.main import main


def test_a_value_is_json_and_text_where_it_is_no_json() -> None:
    words = ["a=1", "b=text", 'c={"x":[null]}', "d=", "e=a=b", 'f="1"']
    assert parse_arguments(words) == {"a": 1, "b": "text", "c": {"x": [None]}, "d": "", "e": "a=b", "f": "1"}


def test_json_with_lone_surrogates_is_json_and_bytes_that_are_no_text_are_readable() -> None:
    assert parse_arguments([r'a={"t":"\ud83d","\\ud83d":1}', "b=a\udcff"]) == {
        "a": {"t": "\ufffd", "\\ud83d": 1},
        "b": "a\ufffd",
    }


@pytest.mark.parametrize("value", ["1e999", "[-1e999]", "9" * 5_000, "[" * 100_000 + "]" * 100_000])
def test_legal_json_that_cannot_be_held_is_no_text(value: str) -> None:
    with pytest.raises(SettingsError, match="argument a: expected"):
        parse_arguments([f"a={value}"])


@pytest.mark.parametrize("words", [["a"], ["=1"], ["1a=1"], ["a=1", "a=2"]])
def test_what_is_no_argument_is_refused(words: list[str]) -> None:
    with pytest.raises(SettingsError):
        parse_arguments(words)


def test_help_says_how_a_text_is_given_that_looks_like_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["call", "--help"])
    written = re.search(r"'(text=[^']*)' a text", " ".join(capsys.readouterr().out.split()))
    assert written is not None
    assert parse_arguments([written[1]]) == {"text": "5"}
