"""Which names may pass."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verani.names import LIFECYCLE_EVENTS, MAX_NAME, MAX_ROOM_ID, check_name, is_name, room_id_of


@pytest.mark.parametrize(
    "text",
    [
        *("a", "lobby", "A-Z_0.9:@~", "x" * 128, "..", "Köln", "my room", "😀", "日本語", "١", "é" * 128, "😀" * 128),
        *(
            "a%20",
            "50%",
            "a+b",
            "a{b}?c#d",
            "\"<&>'",
            "\\",
            " ",
            "a\u3000b",
            "☃\ufe0f",
            "\ufffd",
            "Ω",
            "가",
            "e\u0304\u0301x"[2:],
        ),
    ],
)
def test_a_room_id_is_1_to_128_visible_characters(text: str) -> None:
    assert room_id_of(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "x" * 129, "é" * 129, "a/b", "/", "a\n", "\n", "a\x00", "a\x7f", "a\x85", "../x/", "a\u2028", "a\u2029"),
        *("a\u200bb", "a\u200db", "a\u00adb", "\ufeffa", "a\u202e", "a\u2066", "a\U000e0001", "\ud83d", "a\udc00"),
    ],
)
def test_anything_else_is_no_room_id(text: str) -> None:
    assert room_id_of(text) is None


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("cafe\u0301", "café"),
        ("Ko\u0308ln", "Köln"),
        ("\u212b", "Å"),
        ("\u1112\u1161", "하"),
        ("a\u0301" * 128, "á" * 128),
    ],
)
def test_two_spellings_of_one_text_are_one_room(text: str, room: str) -> None:
    assert room_id_of(text) == room


@given(st.text(max_size=130))
def test_a_room_id_travels_as_utf_8_and_shows_all_of_itself(text: str) -> None:
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    spelled = unicodedata.normalize("NFC", text)
    fits = (
        0 < len(spelled) <= MAX_ROOM_ID
        and "/" not in spelled
        and not any(unicodedata.category(letter) in hidden for letter in spelled)
    )
    assert room_id_of(text) == (spelled if fits else None)
    if fits:
        assert unquote(quote(spelled, safe="")) == spelled
        assert room_id_of(spelled) == spelled


@pytest.mark.parametrize("text", ["", "chat.message", "Grüße, Jürgen!", "日本語", "👩‍👩‍👧", "a b", "x" * 255])
def test_names_may_hold_any_printable_text(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "character",
    [
        "\x00",
        "\n",
        "\x1f",
        "\x7f",
        "\x80",
        "\x9f",
        "\u2028",
        "\u2029",
        "\u202e",
        "\u200f",
        "\u2066",
        "\ud800",
    ],
)
def test_a_name_holds_no_control_character_direction_override_or_surrogate(character: str) -> None:
    assert not is_name(character)
    assert not is_name(f"a{character}b")


def test_a_name_has_at_most_255_characters() -> None:
    assert is_name("é" * MAX_NAME)
    assert not is_name("é" * (MAX_NAME + 1))


@given(st.text(max_size=300))
def test_every_name_that_passes_can_be_encoded_and_printed_on_one_line(text: str) -> None:
    if is_name(text):
        text.encode()
        assert len(text.splitlines()) <= 1


def test_a_checked_name_is_returned_as_it_is() -> None:
    assert check_name("news", "channel") == "news"


@pytest.mark.parametrize("value", [None, 1, b"news", ["news"]])
def test_a_name_of_another_type_is_a_type_error_that_says_what_it_was_for(value: object) -> None:
    with pytest.raises(TypeError, match=f"^channel: expected a string, got {type(value).__name__}$"):
        check_name(value, "channel")


@pytest.mark.parametrize("value", ["", "a\nb", "x" * 256])
def test_an_unfit_name_is_a_value_error_that_says_what_it_was_for_and_quotes_little(value: str) -> None:
    with pytest.raises(ValueError, match="^event: expected 1 to 255 characters") as caught:
        check_name(value, "event")
    assert len(str(caught.value)) < 150


def test_the_listeners_of_the_original_client_are_known_and_error_is_not_one_of_them() -> None:
    assert {"open", "connected", "connecting", "close", "disconnected", "reconnecting"} == LIFECYCLE_EVENTS
