"""The index of who is where, against the plain definition of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from verani.engine.audience import NOBODY, Audience, Membership, audience_of
from verani.room.meta import ConnectionMeta, set_channels
from verani.room.session import Session


class Owner:
    """A session's engine that only keeps the index."""

    def __init__(self, members: Membership[ConnectionMeta]) -> None:
        self.members = members

    def check_thread(self) -> None: ...

    def touch(self, session: Session[Any]) -> bool:
        return False

    def settle(self, session: Session[Any]) -> None: ...

    def copy_meta(self, meta: Any) -> Any:
        return meta

    def moved(self, session: Session[Any], before: tuple[str, ...]) -> None:
        self.members.move(session, before, session.channels)


def enter(
    members: Membership[ConnectionMeta],
    id: str,
    *,
    user: str = "ann",
    client: str | None = None,
    channels: tuple[str, ...] = ("default",),
    gateway: str = "g1",
) -> Session[ConnectionMeta]:
    meta = ConnectionMeta(user_id=user, client_id=client or f"client-{id}", channels=channels)
    session = Session(Owner(members), gateway, id, meta, b"")
    members.add(session)
    return session


def test_an_audience_groups_connections_by_gateway_in_the_order_given() -> None:
    members = Membership[ConnectionMeta]()
    sessions = [enter(members, id, gateway=gateway) for id, gateway in (("a", "g2"), ("b", "g1"), ("c", "g2"))]
    assert audience_of(sessions) == Audience((("g2", ("a", "c")), ("g1", ("b",))), 3)
    assert audience_of([]) is NOBODY


def test_the_same_audience_object_means_nobody_moved_in_that_channel() -> None:
    members = Membership[ConnectionMeta]()
    a = enter(members, "a", channels=("x", "y"))
    enter(members, "b", channels=("x",))
    x, y = members.channel("x"), members.channel("y")
    assert members.channel("x") is x
    a.leave("y")
    assert members.channel("x") is x
    assert members.channel("y") is NOBODY
    enter(members, "c", channels=("y",))
    assert (members.channel("x") is x, members.channel("y") is y) == (True, False)
    members.remove(a)
    assert members.channel("x") == Audience((("g1", ("b",)),), 1)


def test_a_session_is_removed_once() -> None:
    members = Membership[ConnectionMeta]()
    a = enter(members, "a")
    assert members.remove(a)
    assert not members.remove(a)
    assert members.user_ids() == []


def test_a_removed_session_that_moves_comes_into_no_channel() -> None:
    members = Membership[ConnectionMeta]()
    a = enter(members, "a")
    members.remove(a)
    a.join("x")
    assert members.channel("x") is NOBODY


def test_the_holder_of_a_client_id_is_the_last_that_came_and_its_going_frees_it() -> None:
    members = Membership[ConnectionMeta]()
    first = enter(members, "a", client="phone")
    second = enter(members, "b", client="phone")
    members.remove(first)
    assert members.holder_of("phone") is second
    members.remove(second)
    assert members.holder_of("phone") is None


def test_no_index_outgrows_its_sessions() -> None:
    members = Membership[ConnectionMeta]()
    for number in range(50):
        session = enter(members, f"s{number}", user=f"u{number}", channels=(f"c{number}",))
        session.join("shared")
        members.channel(f"c{number}")
        members.channel("shared")
        members.channel(f"nobody-{number}")
        members.remove(session)
    values = [getattr(members, name, None) for name in Membership.__slots__]
    indexes = [value for value in values if isinstance(value, dict)]
    assert len(indexes) > 3
    assert [len(index) for index in indexes] == [0] * len(indexes)


names = st.sampled_from(["a", "b", "c", "d"])
some = st.none() | st.lists(names, max_size=4)
operations = st.one_of(
    st.tuples(st.just("enter"), names, names, st.lists(names, unique=True, max_size=3)),
    st.tuples(st.just("leave room"), names),
    st.tuples(st.just("join"), names, names),
    st.tuples(st.just("leave"), names, names),
    st.tuples(st.just("set"), names, st.lists(names, unique=True, max_size=3)),
)


@given(
    st.lists(operations, max_size=25), st.lists(st.tuples(names, some, some, st.lists(names, max_size=3)), max_size=6)
)
def test_every_audience_is_what_a_look_at_each_session_would_give(script: list[Any], asked: list[Any]) -> None:
    members = Membership[ConnectionMeta]()
    present: dict[str, Session[ConnectionMeta]] = {}
    for operation, id, *rest in script:
        session = present.get(id)
        if operation == "enter" and session is None:
            present[id] = enter(members, id, user=rest[0], client=id.upper(), channels=tuple(rest[1]))
        elif session is None:
            continue
        elif operation == "leave room":
            members.remove(present.pop(id))
        elif operation == "join":
            session.join(rest[0])
        elif operation == "leave":
            session.leave(rest[0])
        elif operation == "set":
            before = session.channels
            set_channels(session.live_meta, tuple(rest[0]))
            members.move(session, before, session.channels)
        for channel in "abcd":  # so that caches exist and would be stale
            inside = {id for id, session in present.items() if channel in session.channels}
            audience = members.channel(channel)
            found = [id for _, ids in audience.targets for id in ids]
            assert (set(found), len(found), audience.count) == (inside, len(inside), len(inside))
    assert members.user_ids() == list(dict.fromkeys(members.user_ids()))
    assert set(members.user_ids()) == {session.user_id for session in present.values()}
    for channel, users, clients, exclude in asked:
        upper = None if clients is None else [client.upper() for client in clients]
        audience = members.select(channel, user_ids=users, client_ids=upper, exclude=exclude)
        expected = {
            id
            for id, session in present.items()
            if channel in session.channels
            and (users is None or session.user_id in users)
            and (upper is None or session.client_id in upper)
            and id not in exclude
        }
        found = [id for _, ids in audience.targets for id in ids]
        assert (set(found), len(found), audience.count) == (expected, len(expected), len(expected))
        assert members.count_in(channel, exclude) == sum(
            1 for id in exclude if id in present and channel in present[id].channels
        )
