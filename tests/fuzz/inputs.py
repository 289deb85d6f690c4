"""Make up what an attacker may send: JSON that is nearly right, msgpack that is nearly right, and noise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import msgspec
from hypothesis import strategies as st

__all__ = ["arguments", "attachments", "frames"]

# Spellings of numbers, strings and literals that decoders have disagreed on.
_ODD = (
    *("0", "-0", "-0.0", "1e5", "1E+5", "1e-400", "1e308", "1e309", "1e999", "-1e999", "01", "+1", ".5", "5.", "1e"),
    *("9007199254740993", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1" * 400),
    *("1" * 5000, "0." + "1" * 5000, "NaN", "Infinity", "-Infinity", "nan", "true", "True", "nul", "null"),
    *(r'"\ud800"', r'"\ud83d\ude00"', r'"\udc00\ud800"', r'"\u0000"', r'"\x41"', '"\x00"', '"\t"', '"', "'a'"),
    *('"\u202e"', '"ü"', '"\U0001f600"', '"a\\"b"', '"\\\\"', r'"\/"', '"\ufeff"'),
    *('"2020-01-01T00:00:00Z"', '"9999-12-31T23:59:60+25:00"', '"P1D"', '"AAAA"', '"A"', '"1.5"', '"0E9999999"'),
    *('"00000000-0000-0000-0000-000000000000"', '{"x":1}', '{"x":1,"x":2}', '{"":{}}', "[]", "[1,]", '{"a":1,}'),
)
_KEYS = ("type", "data", "channel", "id", "x", "", "__class__", "__proto__", "ty\\u0070e", "user_id", "days", "ban")
_SPACE = ("", "", "", " ", "\n", "\t\r ", "\ufeff", "\x00", "/**/")
# Around the limit of depth, and around the limits of decoders and stacks.
_DEPTHS = (1, 2, 61, 62, 63, 64, 65, 66, 300, 990, 1100, 20_000)

# The arguments of some methods, and what fits them; `data` may be anything.
_ARGUMENTS = (
    ("ban", "notify", "tags", "when"),
    ("data", "user_id", "notify"),
    ("channel", "event", "data"),
    ("user_id", "channel", "data"),
    ("channel", "data", "user_ids", "client_ids"),
)
_FITTING = {
    "ban": '{"user_id":"ada","days":2}',
    "notify": "true",
    "tags": '["x"]',
    "when": "null",
    "user_id": '"ada"',
    "channel": '"news"',
    "event": '"said"',
    "user_ids": "null",
    "client_ids": '["c1"]',
}


class _Writer:
    """Write one document; every choice comes from the generator, so a failing example can be made again."""

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose

    def value(self, depth: int = 0) -> str:
        choose = self._choose
        kind = choose.randrange(12)
        if kind < 4 or depth > 4:
            return choose.choice(_ODD)
        if kind < 6:
            return json.dumps(choose.choice((0, 1, -1, 2.5, True, None, "text", "ü", "", choose.getrandbits(70))))
        if kind == 6:
            levels = choose.choice(_DEPTHS)
            left, right = choose.choice((("[", "]"), ('{"a":', "}"), ('[{"[":', "}]")))
            return left * levels + choose.choice(("1", "", '"[{"')) + right * (levels - (choose.random() < 0.1))
        if kind < 9:
            return f"[{self.space()}{','.join(self.value(depth + 1) for _ in range(choose.randrange(4)))}]"
        members = (f"{json.dumps(choose.choice(_KEYS))}:{self.value(depth + 1)}" for _ in range(choose.randrange(4)))
        return f"{{{self.space()}{','.join(members)}}}"

    def space(self) -> str:
        return self._choose.choice(_SPACE) if self._choose.random() < 0.1 else ""

    def frame(self) -> str:
        choose = self._choose
        members = [
            f'"type":{choose.choice(("0", self.value())) if choose.random() < 0.1 else json.dumps("chat.message")}'
        ]
        if choose.random() < 0.9:
            members.append(f'"data":{self.space()}{self.value()}{self.space()}')
        if choose.random() < 0.3:
            members.append(f'"channel":{choose.choice((self.value(), json.dumps("news")))}')
        if choose.random() < 0.3:
            members.append(f'"id":{choose.choice((self.value(), "7"))}')
        if choose.random() < 0.2:
            members.append(f'"{choose.choice(_KEYS)}":{self.value()}')
        choose.shuffle(members)
        return f"{self.space()}{{{','.join(members)}}}{self.space()}"

    def arguments(self) -> str:
        choose = self._choose
        names = list(choose.choice(_ARGUMENTS))
        if choose.random() < 0.1:
            choose.shuffle(names)
        if choose.random() < 0.1:
            names.append("x")
        if choose.random() < 0.4:
            names = names[: choose.randrange(len(names) + 1)]
        values = [_FITTING.get(name, self.value()) if choose.random() < 0.7 else self.value() for name in names]
        if choose.random() < 0.3:
            return f"{self.space()}[{','.join(values)}]{self.space()}"
        pairs = zip(names, values, strict=True)
        return f"{self.space()}{{{','.join(f'{json.dumps(name)}:{value}' for name, value in pairs)}}}{self.space()}"


def _damage(choose: random.Random, payload: bytes) -> bytes:
    """Change a payload a little, a few times, mostly not at all."""
    if choose.random() < 0.6:
        return payload
    damaged = bytearray(payload)
    for _ in range(choose.randrange(1, 4)):
        at = choose.randrange(len(damaged) + 1)
        match choose.randrange(6):
            case 0:
                damaged[at : at + 1] = bytes([choose.randrange(256)])
            case 1:
                damaged[at:at] = choose.choice(
                    (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x00", b'"')
                )
            case 2:
                del damaged[at : at + choose.randrange(1, 9)]
            case 3:
                del damaged[at:]
            case 4:
                damaged[at:at] = damaged[:at][-20:]
            case _ if damaged:
                damaged[at % len(damaged)] ^= 1 << choose.randrange(8)
    return bytes(damaged)


def _documents(write: Callable[[_Writer], str]) -> st.SearchStrategy[bytes]:
    def make(choose: random.Random) -> bytes:
        return _damage(choose, write(_Writer(choose)).encode("utf-8", "surrogatepass"))

    # One seed an example: drawing each choice by itself is twenty times slower, and nothing here needs shrinking.
    return st.integers(0, 2**64).map(random.Random).map(make) | st.binary(max_size=100)


def frames() -> st.SearchStrategy[bytes]:
    """What a client may send in a text frame."""
    return _documents(_Writer.frame)


def arguments() -> st.SearchStrategy[bytes]:
    """What a caller may send as the body of a call."""
    return _documents(_Writer.arguments)


def attachments(genuine: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Damage genuine attachments, and put other msgpack behind their prefix."""

    def make(choose: random.Random) -> bytes:
        one = choose.choice(genuine)
        if choose.random() < 0.5:
            return _damage(choose, one)
        fields = {key: _builtin(choose) for key in ("user_id", "client_id", "channels", "score", "tags", "seen", "any")}
        usual = {"user_id": "ann", "client_id": "c", "channels": ["a"], "score": 1}
        body = {key: value if choose.random() < 0.3 else usual.get(key, value) for key, value in fields.items()}
        prefix = one[: one.index(b"\x01", 1) + 1] if choose.random() < 0.9 else one[: choose.randrange(len(one))]
        return _damage(choose, prefix + msgspec.msgpack.encode(body))

    return st.integers(0, 2**64).map(random.Random).map(make) | st.binary(max_size=100)


_LEAVES = (
    *("", "x", "\u202e", "\x00", 0, -1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf")),
    *(None, True, b"", b"\xff"),
)


def _extension(choose: random.Random) -> msgspec.msgpack.Ext:
    # -1 is a timestamp, of 4, 8 or 12 bytes.
    return msgspec.msgpack.Ext(choose.choice((-1, -1, -2, 5)), b"\xff" * choose.randrange(13))


def _builtin(choose: random.Random, depth: int = 0) -> object:
    kind = choose.randrange(12)
    if depth > 3 or kind < 7:
        return choose.choice(_LEAVES) if choose.random() < 0.9 else _extension(choose)
    if kind == 7:
        return msgspec.Raw(
            choose.choice((b"\x91", b"\xdd") if choose.random() < 0.5 else (b"\x91" * 5000, b"\x81\xa1"))
        )
    if kind < 10:
        return [_builtin(choose, depth + 1) for _ in range(choose.randrange(4))]
    return {str(n): _builtin(choose, depth + 1) for n in range(choose.randrange(4))}
