"""Say which room hosts there are, and which of them owns a room.

An epoch is one agreed state of the membership. The registrar publishes them; hosts and gateways act on the highest
one they were told to commit. Nothing here decides who is a member.

Invariant: everybody who has the same epoch finds the same owner, on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from msgspec import Struct

__all__ = ["Death", "Epoch", "Member"]


class Member(Struct, frozen=True, array_like=True):
    """A room host: `id` is its place, which a successor takes over; `incarnation` the one process.

    `path` is the Unix socket of its links, for gateways of the same machine; `url` is for those of others.
    """

    id: str
    incarnation: str
    machine: str
    pid: int
    path: str
    url: str = ""


class Death(Struct, frozen=True, array_like=True):
    """A host that a hook has killed: the input in whose hook it died, by its gateway's id and its number.

    Where it died outside of an input (a wake, a spawned task), `gateway` is empty and `number` 0.
    """

    incarnation: str
    room: str
    gateway: str = ""
    number: int = 0


class Epoch(Struct, frozen=True, array_like=True):
    """The members from one number on. `registrar` is the machine that publishes; `deaths` are those of late."""

    number: int = 0
    registrar: str = ""
    members: tuple[Member, ...] = ()
    deaths: tuple[Death, ...] = ()

    def owner(self, room: str) -> Member | None:
        """Find the member that owns a room, by rendezvous hashing; None where there is no member.

        A member that comes or goes moves its own share of the rooms and no other.
        """
        name = room.encode()
        owner, best = None, b""
        # Asked for every input: a loop takes less time than `max` with a key.
        for member in self.members:
            hash = _seed(member.id).copy()
            hash.update(name)
            score = hash.digest()
            if owner is None or score > best or (score == best and member.id > owner.id):
                owner, best = member, score
        return owner

    def owns(self, incarnation: str, room: str) -> bool:
        """Tell whether this process owns a room."""
        owner = self.owner(room)
        return owner is not None and owner.incarnation == incarnation

    @property
    def machines(self) -> frozenset[str]:
        """Machines that have a say: those of the members and the registrar's."""
        return frozenset({self.registrar, *(member.machine for member in self.members)})


@lru_cache(maxsize=1024)
def _seed(member: str) -> hashlib.blake2b:
    return hashlib.blake2b(member.encode() + b"\0", digest_size=8)
