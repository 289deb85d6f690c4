"""Metas and the attachments they are kept in."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verani import ConnectionMeta, TooLarge
from verani.room.meta import AttachmentCodec, AttachmentError, set_channels


class Player(ConnectionMeta, kw_only=True):
    score: int = 0
    tags: list[str] = []
    ratio: float | None = None


PLAYER = Player(user_id="ann", client_id="c1", channels=("a", "b"), score=3, tags=["x"])


def codec(
    definition: str = "chat", meta: type[Any] = Player, schema: int = 1, limit: int = 10_000
) -> AttachmentCodec[Any]:
    return AttachmentCodec(definition, meta, schema, limit)


@pytest.mark.parametrize("name", ["user_id", "client_id", "channels"])
def test_the_fixed_fields_are_read_only_and_own_fields_are_not(name: str) -> None:
    meta = copy.copy(PLAYER)
    with pytest.raises(AttributeError, match=f"^Player.{name} is read-only"):
        setattr(meta, name, "x")
    meta.score = 9
    assert meta.score == 9


def test_a_field_that_is_not_declared_says_where_it_would_be() -> None:
    plain, player = ConnectionMeta(user_id="ann"), copy.copy(PLAYER)
    told = "^ConnectionMeta has no field 'name': expected it in a subclass of ConnectionMeta, the meta= of define_room$"
    with pytest.raises(AttributeError, match=told):
        plain.name = "ann"
    with pytest.raises(AttributeError, match="^Player has no field 'scroe'$"):
        player.scroe = 5


def test_a_property_of_a_meta_says_itself_what_it_refuses() -> None:
    class Named(ConnectionMeta):
        @property
        def name(self) -> str:
            return self.user_id

    with pytest.raises(AttributeError, match="property 'name' of .* has no setter"):
        Named(user_id="ann").name = "bob"  # type: ignore[misc]  # that is what is wrong with it


def test_the_engine_has_its_own_way_to_change_channels() -> None:
    meta = copy.copy(PLAYER)
    set_channels(meta, ("z",))
    assert meta.channels == ("z",)


def test_a_connection_starts_in_the_default_channel() -> None:
    assert ConnectionMeta(user_id="a", client_id="b").channels == ("default",)


def test_an_attachment_is_a_version_byte_and_an_array_of_name_schema_and_meta() -> None:
    attachment = codec(schema=7).encode(PLAYER)
    assert attachment[0] == 1
    assert msgspec.msgpack.decode(attachment[1:]) == ["chat", 7, msgspec.to_builtins(PLAYER) | {"channels": ["a", "b"]}]


def test_an_attachment_of_fields_that_were_added_since_reads_with_their_defaults() -> None:
    class Older(ConnectionMeta, kw_only=True):
        score: int = 0
        gone: str = ""

    attachment = codec(meta=Older).encode(Older(user_id="ann", client_id="c1", score=5, gone="x"))
    assert codec().decode(attachment) == Player(user_id="ann", client_id="c1", score=5)


metas = st.builds(
    Player,
    user_id=st.text(st.characters(exclude_categories=["Cs"])),
    client_id=st.text(st.characters(exclude_categories=["Cs"])),
    channels=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5).map(tuple),
    score=st.integers(-(2**63), 2**64 - 1),
    tags=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    ratio=st.none() | st.floats(allow_nan=False),
)


@given(metas)
def test_every_meta_comes_back_as_it_was_and_encodes_to_the_same_bytes(meta: Player) -> None:
    attachment = codec().encode(meta)
    back = codec().decode(attachment)
    assert back == meta == codec(limit=len(attachment)).check(attachment)
    assert codec().encode(back) == attachment
    assert codec().copy(meta) == meta
    assert codec().copy(meta) is not meta


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_attachment_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(AttachmentError):
        codec().decode(data)


@given(st.data())
def test_a_damaged_attachment_is_read_or_refused_and_never_raises_anything_else(data: st.DataObject) -> None:
    attachment = bytearray(codec().encode(data.draw(metas)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(attachment) - 1))
        attachment[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(attachment)))
    try:
        meta = codec().decode(bytes(attachment[:cut]))
    except AttachmentError as error:
        assert str(error)  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(meta, Player)
        codec().encode(meta)


@pytest.mark.parametrize(
    ("attachment", "said"),
    [
        (b"", "got format version nothing"),
        (b"\x02rest", "got format version 02"),
        (b"\x01rest", "got unreadable bytes"),
        (codec("other").encode(PLAYER), "got 'other', schema 1"),
        (codec(schema=2).encode(PLAYER), "got 'chat', schema 2"),
    ],
)
def test_a_foreign_attachment_says_what_was_expected_and_what_came(attachment: bytes, said: str) -> None:
    with pytest.raises(AttachmentError) as caught:
        codec().decode(attachment)
    assert str(caught.value) == f"expected an attachment of 'chat', schema 1, {said}"


def test_a_damaged_attachment_of_our_own_is_unreadable() -> None:
    with pytest.raises(AttachmentError, match="^unreadable attachment of 'chat'$"):
        codec().decode(codec().encode(PLAYER)[:-1])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tags", [object()], "Player.tags: Encoding objects of type object is unsupported"),
        ("tags", ["\ud800"], "Player.tags: 'utf-8' codec can't encode"),
        ("score", 2**64, "Player.score: "),
    ],
)
def test_a_field_that_cannot_be_encoded_is_named(field: str, value: object, said: str) -> None:
    meta = copy.copy(PLAYER)
    setattr(meta, field, value)
    with pytest.raises(TypeError) as caught:
        codec().encode(meta)
    assert str(caught.value).startswith(said)


def test_a_field_that_holds_itself_is_named() -> None:
    knot: list[Any] = []
    knot.append(knot)
    meta = copy.copy(PLAYER)
    meta.tags = knot
    with pytest.raises(TypeError, match=r"^Player\.tags: "):
        codec().encode(meta)


def test_a_value_that_does_not_fit_its_annotation_is_named_by_check() -> None:
    meta = copy.copy(PLAYER)
    meta.score = "3"  # type: ignore[assignment]  # what is tested
    with pytest.raises(TypeError, match=r"^Player: Expected `int`, got `str` - at `\$.score`$"):
        codec().check(codec().encode(meta))


def test_check_refuses_one_byte_over_the_limit() -> None:
    attachment = codec().encode(PLAYER)
    codec(limit=len(attachment)).check(attachment)
    with pytest.raises(TooLarge, match=f"^Player: expected at most {len(attachment) - 1} bytes of meta, got"):
        codec(limit=len(attachment) - 1).check(attachment)


def test_a_copy_shares_nothing_also_of_a_meta_that_does_not_fit_its_type() -> None:
    meta = copy.copy(PLAYER)
    meta.tags = [["nested"]]  # type: ignore[list-item]  # what is tested
    for original in (PLAYER, meta):
        twin = codec().copy(original)
        assert twin == original
        assert twin.tags is not original.tags
