"""Ask every process of a service the same question, over the links to its hosts.

One of them passes it on to the gateways that the asker has no link to; who does not answer in time is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Final, Protocol

import msgspec

from verani.link.epoch import Epoch, Member
from verani.link.messages import Ask, Told

__all__ = ["PATIENCE", "Asking", "Collected", "Inquiry"]

logger = logging.getLogger(__name__)

# Seconds that the other processes get to answer.
PATIENCE: Final = 2.0


class Asking(Protocol):
    """What answering for the service needs of the placement."""

    @property
    def epoch(self) -> Epoch:
        """The epoch in force here."""

    def ask(self, member: Member, ask: Ask) -> bool:
        """Send a question to a room host; False where there is no link to it."""


class Collected:
    """The answers of one question, as JSON by id of the process."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.hosts: dict[str, bytes] = {}
        self.gateways: dict[str, bytes] = {}
        self.missing: list[str] = []

    def decoded(self, kind: Any) -> list[Any]:
        """Read what the gateways said, without those that say nothing."""
        return _decoded(self.gateways, kind)

    def told(self, kind: Any) -> list[Any]:
        """Read what processes of both kinds said, without those that say nothing."""
        return [*self.decoded(kind), *self.decoded_hosts(kind)]

    def decoded_hosts(self, kind: Any) -> list[Any]:
        """Read what the hosts said."""
        return _decoded(self.hosts, kind)


def _decoded(bodies: Mapping[str, bytes], kind: Any) -> list[Any]:
    return [msgspec.json.decode(body, type=kind) for body in bodies.values() if body != b"null"]


class _Question:
    """One question on its way."""

    def __init__(self, collected: Collected, hosts: Iterable[str], relay: str) -> None:
        self.collected = collected
        self.hosts = set(hosts)
        # Of the other gateways nothing is known before the host that passes the question on has answered.
        self.relay = relay
        self.gateways: set[str] = set()
        # Whether the host that passes it on is gone: what has not come by now does not come.
        self.is_cut_short = False
        self.done = asyncio.Event()

    def take(self, told: Told) -> None:
        if told.sender in self.hosts:
            self.hosts.discard(told.sender)
            self.collected.hosts[told.sender] = told.body
        else:
            self.gateways.discard(told.sender)
            self.collected.gateways[told.sender] = told.body
        if told.sender == self.relay:
            self.gateways |= {name for name in told.more if name not in self.collected.gateways}
        self._look()

    def lose(self, host: str) -> None:
        """Wait no longer for a host that has left, nor for what it would have passed on."""
        self.hosts.discard(host)
        self.is_cut_short = self.is_cut_short or host == self.relay
        self._look()

    def _look(self) -> None:
        if not self.hosts and (self.is_cut_short or not self.gateways):
            self.done.set()


class Inquiry:
    """The questions of one gateway, and its answers to those of others; the placement brings every `Ask` and `Told`.

    `answer` is what this gateway itself says to a topic and argument.
    """

    def __init__(
        self, own: str, asking: Asking, answer: Callable[[str, str], bytes], *, patience: float = PATIENCE
    ) -> None:
        self._own = own
        self._asking = asking
        self._answer = answer
        self._patience = patience
        self._tokens = count(1)
        self._questions: dict[int, _Question] = {}

    def asked(self, ask: Ask) -> Told:
        """Answer a host that asks in the name of another gateway."""
        return Told(ask.token, self._own, self._answer(ask.topic, ask.argument))

    def told(self, told: Told) -> None:
        """Take an answer; one that comes too late is nobody's any more."""
        if (question := self._questions.get(told.token)) is not None:
            question.take(told)

    def lost(self, host: str) -> None:
        """Take note that a host is a member no more."""
        for question in self._questions.values():
            question.lose(host)

    async def collect(self, topic: str, argument: str = "") -> Collected:
        """Ask every process of the service, this one included."""
        collected = Collected(self._own)
        token = next(self._tokens)
        members = {member.id: member for member in self._asking.epoch.members}
        asked: list[str] = []
        question = self._questions[token] = _Question(collected, members, "")
        try:
            for id, member in members.items():
                # The first that has a link passes the question on.
                if self._asking.ask(member, Ask(token, topic, argument, relay=not asked)):
                    asked.append(id)
                    question.relay = question.relay or id
            if asked:
                try:
                    # Those without a link may still get one, but not in time.
                    question.hosts &= set(asked)
                    async with asyncio.timeout(self._patience):
                        await question.done.wait()
                except TimeoutError:
                    logger.warning(
                        "no answer to %s from %s", topic, ", ".join(sorted(question.hosts | question.gateways))
                    )
        finally:
            del self._questions[token]
        collected.gateways = {
            id: body for id, body in collected.gateways.items() if body
        }  # those that left say nothing
        collected.gateways[self._own] = self._answer(topic, argument)
        collected.missing = sorted((set(members) - set(collected.hosts)) | question.gateways)
        return collected
