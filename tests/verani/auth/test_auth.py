"""The ready ways to identify clients: what they refuse to be configured with, and where their keys come from."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm

from tests.raw import until
from tests.tokens import AUDIENCE, OTHER, RSA, SECRET, jwk, private_pem, public_pem, sign, token
from verani import (
    ConnectionMeta,
    ConnectRequest,
    Context,
    DefinitionError,
    Forbidden,
    Identity,
    RoomBusy,
    TokenVerifier,
    Unauthorized,
    define_room,
)
from verani.auth import JwtVerifier, cookie_auth, jwt_auth, public_meta
from verani.auth.jwks import MAX_KEY_SET_BYTES, RemoteKeySet, parse_key_set
from verani.testing import RoomHarness

GOOD: dict[str, Any] = {"algorithms": ["RS256"], "audience": AUDIENCE, "key": public_pem()}


# --- configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithms": []}, "algorithms= to be a list"),
        ({"algorithms": "RS256"}, "algorithms= to be a list"),
        ({"algorithms": ["none"]}, "algorithms= to be a list"),
        ({"algorithms": ["RS256", "none"]}, "algorithms= to be a list"),
        ({"algorithms": ["rs256"]}, "algorithms= to be a list"),
        ({"algorithms": ["RS256", "HS256"]}, "algorithms= of one kind"),
        ({"algorithms": ["HS256"]}, "expected a key that fits HS256"),
        ({"algorithms": ["HS256"], "key": b"short"}, "below the minimum"),
        ({"algorithms": ["ES256"]}, "expected a key that fits ES256"),
        ({"key": b"no pem"}, "expected a key that fits RS256"),
        ({"key": public_pem(rsa.generate_private_key(65537, 1024))}, "below the minimum"),
        ({"key": private_pem()}, "expected a public key=, got a private one"),
        ({"key": None}, "exactly one of key="),
        ({"jwks_url": "https://a.test/jwks"}, "exactly one of key="),
        ({"key": None, "jwks_url": "http://a.test/jwks"}, "an https:// jwks_url"),
        ({"key": None, "jwks_url": "file:///etc/passwd"}, "an https:// jwks_url"),
        ({"key": None, "jwks_url": "https://a.test/jwks", "algorithms": ["HS256"]}, "expected key= for HS"),
        ({"key": None, "jwks_file": "/nowhere"}, "expected jwks_file= to be a JSON Web Key Set"),
        ({"audience": ""}, "audience= to be a string or None"),
        ({"audience": [AUDIENCE]}, "audience= to be a string or None"),
        ({"issuer": ["a"]}, "issuer= to be a string or None"),
        ({"leeway": -1}, "leeway= from 0 to 300"),
        ({"leeway": 3600}, "leeway= from 0 to 300"),
        ({"claims": {"user_id": "name"}}, "the user id is the claim sub"),
        ({"claims": {"role": 5}}, "claims= to be a mapping"),
        ({"claims": "role"}, "claims= to be a mapping"),
    ],
)
def test_what_is_wrong_or_unsafe_is_refused_when_it_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as caught:
        jwt_auth(**{**GOOD, **options})
    assert "-----BEGIN" not in str(caught.value)
    assert caught.value.__cause__ is None or "jwks_file" in options


@pytest.mark.parametrize("missing", ["algorithms", "audience"])
def test_algorithms_and_audience_are_never_guessed(missing: str) -> None:
    options = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(TypeError, match=missing):
        jwt_auth(**options)


def test_nothing_shows_the_secret() -> None:
    verifier = jwt_auth(algorithms=["HS256"], audience=None, key=SECRET)
    assert SECRET.decode() not in repr(verifier) + repr(define_room("chat", extract_meta=verifier))


def test_cookies_work_without_the_extra() -> None:
    script = "import sys; sys.modules['jwt'] = None; import verani.auth as a; a.cookie_auth; a.jwt_auth"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "jwt_auth needs PyJWT: pip install 'pyjwt[crypto]'" in result.stderr


# --- claims --------------------------------------------------------------------------------------------------


class Member(ConnectionMeta, rename="camel", forbid_unknown_fields=True):
    """With wire names that are not those of the fields."""

    team_name: str


async def _identify(verifier: JwtVerifier, with_token: str, meta: type[ConnectionMeta] = Member) -> ConnectionMeta:
    request = ConnectRequest("/ws", query={"token": with_token})
    return await define_room("chat", meta=meta, extract_meta=verifier).meta_for(request)


async def test_claims_go_by_the_names_of_fields() -> None:
    meta = await _identify(jwt_auth(**GOOD), token(team_name="red", other=1))
    assert isinstance(meta, Member)
    assert (meta.user_id, meta.team_name, meta.channels, len(meta.client_id)) == ("ann", "red", ("default",), 32)


async def test_a_function_may_make_the_fields_of_all_claims() -> None:
    def fields(claims: Any) -> dict[str, Any]:
        return {"team_name": claims["teams"][0], "channels": claims["teams"], "client_id": claims["jti"]}

    meta = await _identify(jwt_auth(**GOOD, claims=fields), token(teams=["red", "blue"], jti="one"))
    assert meta == Member(user_id="ann", team_name="red", channels=("red", "blue"), client_id="one")
    with pytest.raises(KeyError):
        await _identify(jwt_auth(**GOOD, claims=fields), token())


async def test_a_required_field_that_no_claim_fills_is_401_and_an_unknown_one_is_our_fault() -> None:
    with pytest.raises(Unauthorized, match="^expected a valid token$"):
        await _identify(jwt_auth(**GOOD), token())
    with pytest.raises(DefinitionError, match="fields of Member"):
        await _identify(jwt_auth(**GOOD, claims={"tam_name": "team"}), token(team="red", team_name="red"))
    with pytest.raises(TypeError, match="fields of Member"):
        await _identify(jwt_auth(**GOOD, claims=lambda claims: {"tam_name": "red"}), token())


async def test_code_that_calls_a_verifier_gets_the_fields_or_a_meta_of_the_type_it_asked_for() -> None:
    claims = {"team_name": "team"}
    for verifier, expected in (
        (jwt_auth(**GOOD), {"user_id": "ann", "team": "red"}),
        (jwt_auth(**GOOD, claims=claims), {"user_id": "ann", "team_name": "red", "team": "red"}),
        (jwt_auth(**GOOD, claims=lambda claims: {"team_name": claims["team"]}), {"user_id": "ann", "team_name": "red"}),
    ):
        identity = await verifier(ConnectRequest("/ws", query={"token": token(team="red", channels=["x"], jti="7")}))
        assert identity.meta == expected
        assert type(identity.meta) is dict
    typed = await jwt_auth(**GOOD, claims=claims).for_meta(Member)(
        ConnectRequest("/ws", subprotocols=("verani", f"bearer.{token(team='red')}"))
    )
    assert isinstance(typed.meta, Member)
    assert (typed.meta.user_id, typed.meta.team_name) == ("ann", "red")


async def test_a_verifier_may_be_wrapped_by_code_that_decides_more() -> None:
    verifier = jwt_auth(**GOOD, claims={"team_name": "team"})

    async def extract_meta(request: ConnectRequest) -> Identity:
        identity = await verifier(request)
        assert isinstance(identity.meta, dict)
        return Identity({**identity.meta, "team_name": identity.meta["team_name"].upper()}, identity.expires_at)

    class Plain(ConnectionMeta):
        team_name: str

    room = define_room("chat", meta=Plain, extract_meta=extract_meta)
    meta, expires_at = await room.identify(ConnectRequest("/ws", query={"token": token(team="red")}))
    assert (meta.user_id, meta.team_name, len(meta.client_id)) == ("ann", "RED", 32)
    assert expires_at is not None


async def test_one_verifier_makes_metas_for_several_definitions() -> None:
    verifier = jwt_auth(**GOOD, claims=lambda claims: {})
    plain = define_room("plain", extract_meta=verifier)
    assert type(await plain.meta_for(ConnectRequest("/ws", query={"token": token()}))) is ConnectionMeta
    with pytest.raises(Unauthorized):
        await _identify(verifier, token())


async def test_no_function_chooses_another_user() -> None:
    verifier = jwt_auth(**GOOD, claims=lambda claims: {"user_id": "root"})
    assert (await _identify(verifier, token(), ConnectionMeta)).user_id == "ann"


async def test_every_fault_of_a_token_reads_the_same(caplog: pytest.LogCaptureFixture) -> None:
    bad = (token(exp=1), token(key=OTHER), token(sub=5), token(aud="x"), "no token", "", "a" * 9000, token(exp="1"))
    with caplog.at_level(logging.DEBUG):
        for each in bad:
            with pytest.raises(Unauthorized, match="^expected a valid token$") as caught:
                await jwt_auth(**GOOD).verify_token(each)
            assert caught.value.__suppress_context__
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * len(bad)


def test_a_verifier_and_objects_like_it_may_refresh_and_plain_functions_may_not() -> None:
    async def lookup(value: str) -> None: ...

    assert isinstance(jwt_auth(**GOOD), TokenVerifier)
    assert not isinstance(cookie_auth("session", lookup), TokenVerifier)
    assert not isinstance(public_meta, TokenVerifier)


# --- cookies -------------------------------------------------------------------------------------------------


async def test_a_lookup_returns_a_meta_or_its_fields_or_an_identity() -> None:
    meta = ConnectionMeta(user_id="ann", client_id="c")

    async def lookup(value: str) -> Any:
        return {"meta": meta, "fields": {"user_id": "ann"}, "identity": Identity({"user_id": "ann"}, 5.0)}[value]

    room = define_room("chat", extract_meta=cookie_auth("session", lookup))
    for value, expires_at in (("meta", None), ("fields", None), ("identity", 5.0)):
        found, expiry = await room.identify(ConnectRequest("/ws", cookies={"session": value}))
        assert (found.user_id, expiry) == ("ann", expires_at)
        assert found.client_id


@pytest.mark.parametrize(("name", "lookup"), [("", lambda value: None), (5, lambda value: None), ("session", None)])
def test_a_cookie_needs_a_name_and_a_lookup(name: Any, lookup: Any) -> None:
    with pytest.raises(DefinitionError, match="^cookie_auth: expected"):
        cookie_auth(name, lookup)


# --- channels ------------------------------------------------------------------------------------------------


async def _async(asker: Any, channel: str) -> bool:
    return True


class _AsyncObject:
    async def __call__(self, asker: Any, channel: str) -> bool:
        return True


@pytest.mark.parametrize("function", [_async, _AsyncObject()])
def test_authorize_channel_is_a_plain_def(function: Any) -> None:
    with pytest.raises(DefinitionError, match="^chat: expected authorize_channel to be a plain def"):
        define_room("chat", authorize_channel=function)
    with pytest.raises(DefinitionError, match="^chat: expected authorize_channel to be a plain def"):
        define_room("chat").authorize_channel(function)


async def test_a_coroutine_in_place_of_an_answer_lets_nobody_in() -> None:
    room = define_room("chat", authorize_channel=lambda asker, channel: _async(asker, channel))  # type: ignore[arg-type,return-value]  # the mistake
    with pytest.raises(TypeError, match="expected True or False, got coroutine"):
        await room.meta_for(ConnectRequest("/ws"))


async def test_join_asks_and_session_join_does_not() -> None:
    room = define_room("chat")

    @room.authorize_channel
    def decide(asker: Context | ConnectRequest, channel: str) -> bool:
        if channel == "raise":
            raise LookupError("no such channel")
        return channel in ("default", "open")

    @room.on("join")
    def join(ctx: Context, channel: str) -> list[str]:
        try:
            ctx.join(channel)
        except LookupError:
            return ["raised"]
        return list(ctx.meta.channels)

    @room.on("move")
    def move(ctx: Context, channel: str) -> list[str]:
        ctx.ws.join(channel)
        return list(ctx.meta.channels)

    async with RoomHarness(room) as harness:
        client = await harness.connect(query={"userId": "ann"})
        assert await client.request("join", "open") == ["default", "open"]
        with pytest.raises(Forbidden):
            await client.request("join", "closed")
        assert await client.request("join", "raise") == ["raised"]
        assert await client.request("move", "closed") == ["default", "open", "closed"]
        with pytest.raises(Forbidden):
            await harness.connect(query={"channels": "closed"})


# --- key sets ------------------------------------------------------------------------------------------------


def _document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


async def test_a_key_set_of_a_file_is_chosen_from_by_kid(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(_document(jwk(RSA, "1"), jwk(OTHER, "2")))
    verifier = jwt_auth(algorithms=["RS256", "PS256"], audience=AUDIENCE, jwks_file=file)
    for good in (token(kid="1"), token(kid="2", key=OTHER), token(kid="1", alg="PS256")):
        await verifier.verify_token(good)
    for bad in (token(kid="1", key=OTHER), token(kid="2"), token(kid="3"), token(), token(kid="../1")):
        with pytest.raises(Unauthorized):
            await verifier.verify_token(bad)


async def test_a_token_without_kid_means_the_only_key() -> None:
    assert await parse_key_set(_document(jwk(RSA, "1")), ["RS256"]).find(None) is not None
    assert await parse_key_set(_document(jwk(RSA, "1"), jwk(OTHER, "2")), ["RS256"]).find(None) is None


def _ec_key(curve: ec.EllipticCurve) -> dict[str, Any]:
    return ECAlgorithm.to_jwk(ec.generate_private_key(curve).public_key(), as_dict=True) | {"kid": "1"}


@pytest.mark.parametrize(
    ("key", "algorithm", "usable"),
    [
        (jwk(RSA, "1"), "RS256", True),
        (jwk(RSA, "1", use="sig", alg="RS256"), "RS256", True),
        (jwk(RSA, "1", alg="RS512"), "RS256", False),
        (jwk(RSA, "1", use="enc"), "RS256", False),
        (jwk(RSA, "1", d="AQAB"), "RS256", False),
        (jwk(RSA, "1"), "ES256", False),
        (jwk(rsa.generate_private_key(65537, 1024), "1"), "RS256", False),
        (_ec_key(ec.SECP256R1()), "ES256", True),
        (_ec_key(ec.SECP384R1()), "ES256", False),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "1"}, "RS256", False),
        ({"kty": "RSA", "n": "!", "e": "AQAB", "kid": "1"}, "RS256", False),
        ({"kty": "RSA", "n": 5, "e": "AQAB", "kid": "1"}, "RS256", False),
        ({"kty": "RSA", "kid": "1"}, "RS256", False),
        ({"kty": ["RSA"], "kid": "1"}, "RS256", False),
        ({**jwk(RSA, None), "kid": 1}, "RS256", False),
        ({}, "RS256", False),
    ],
)
async def test_a_key_is_used_for_what_it_is_made_for(key: dict[str, Any], algorithm: str, usable: bool) -> None:
    keys = parse_key_set(_document(key), [algorithm])
    assert (len(keys) == 1) is usable
    assert (await keys.find("1") is not None) is usable


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys":5}', b'{"keys":["a"]}', b"[" * 10000, b"\xff"])
def test_what_is_no_key_set_is_refused(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^expected a JSON Web Key Set"):
        parse_key_set(text, ["RS256"])
    file = tmp_path / "jwks.json"
    file.write_bytes(text)
    with pytest.raises(DefinitionError, match="expected jwks_file= to be a JSON Web Key Set"):
        jwt_auth(algorithms=["RS256"], audience=None, jwks_file=file)


class Issuer:
    """A web server that publishes keys."""

    def __init__(self) -> None:
        self.body = _document(jwk(RSA, "1"))
        self.status = 200
        self.fetches = 0
        self.free = asyncio.Event()
        self.free.set()
        self.url = ""
        self.now = 1000.0

    async def answer(self, request: web.Request) -> web.Response:
        self.fetches += 1
        await self.free.wait()
        if self.status == 302:
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        return web.Response(body=self.body, status=self.status)

    def keys(self, **options: Any) -> RemoteKeySet:
        return RemoteKeySet(self.url, ["RS256"], clock=lambda: self.now, **options)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    application = web.Application()
    application.router.add_get("/{path}", issuer.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield issuer
    issuer.free.set()
    await runner.cleanup()


async def test_a_rotated_key_is_found_and_a_withdrawn_one_is_gone(issuer: Issuer) -> None:
    keys = issuer.keys()
    verifier = JwtVerifier(keys, audience=AUDIENCE)
    await verifier.verify_token(token(kid="1"))
    issuer.now += 31
    issuer.body = _document(jwk(OTHER, "2"))
    await verifier.verify_token(token(kid="1"))
    assert issuer.fetches == 1, "what is known is not asked for again"
    assert (await verifier.verify_token(token(kid="2", key=OTHER))).expires_at is not None
    assert issuer.fetches == 2
    with pytest.raises(Unauthorized):
        await verifier.verify_token(token(kid="1"))


async def test_made_up_kids_cost_one_fetch_in_an_interval(issuer: Issuer) -> None:
    keys = issuer.keys(interval=30.0)
    assert await keys.find("1")
    for second in range(90):
        issuer.now = 1001.0 + second
        assert await keys.find(f"made-up-{second}") is None
    assert issuer.fetches == 1 + 3


async def test_keys_are_fetched_again_when_they_are_old(issuer: Issuer) -> None:
    keys = issuer.keys(max_age=600.0)
    assert await keys.find("1")
    issuer.now += 599
    assert await keys.find("1")
    assert issuer.fetches == 1
    issuer.now += 1
    issuer.body = _document(jwk(OTHER, "2"))
    assert await keys.find("1") is None
    assert issuer.fetches == 2


async def test_many_who_ask_at_once_cause_one_fetch(issuer: Issuer) -> None:
    keys = issuer.keys()
    issuer.free.clear()
    asking = [asyncio.create_task(keys.find(kid)) for kid in ("1", "2", "1", "3")]
    await until(lambda: issuer.fetches)
    issuer.free.set()
    found = await asyncio.gather(*asking)
    assert [key is not None for key in found] == [True, False, True, False]
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (404, _document(jwk(RSA, "1"))),
        (302, b""),
        (200, b"<html>"),
        (200, b'{"keys":[]}'),
        (200, b" " * (MAX_KEY_SET_BYTES + 1)),
    ],
)
async def test_an_issuer_that_fails_is_busy_first_and_then_asked_again(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, status: int, body: bytes
) -> None:
    keys, good = issuer.keys(), issuer.body
    issuer.status, issuer.body = status, body
    for _ in range(3):
        with pytest.raises(RoomBusy):
            await keys.find("1")
    assert issuer.fetches == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    issuer.status, issuer.body = 200, good
    issuer.now += 5
    assert await keys.find("1")


async def test_an_issuer_that_fails_later_is_not_missed_while_its_keys_are_fresh(issuer: Issuer) -> None:
    keys = issuer.keys(max_age=600.0)
    assert await keys.find("1")
    issuer.status = 500
    issuer.now += 60
    assert await keys.find("2") is None
    assert await keys.find("1")
    issuer.now += 600
    assert await keys.find("1"), "old keys are better than none"


@pytest.mark.parametrize("body", [b"<html>", b'{"keys":[]}', _document(jwk(RSA, "1", use="enc"))])
@pytest.mark.parametrize("status", [200, 500])
async def test_old_keys_go_on_while_an_issuer_fails_and_not_for_ever(issuer: Issuer, status: int, body: bytes) -> None:
    keys, good = issuer.keys(max_age=600.0, max_stale=3600.0), issuer.body
    assert await keys.find("1")
    issuer.status, issuer.body = status, body
    issuer.now += 4199
    assert await keys.find("1")
    assert issuer.fetches == 2
    with pytest.raises(RoomBusy):
        await keys.find("2")  # it may be a new one
    issuer.now += 1
    with pytest.raises(RoomBusy):
        await keys.find("1")
    issuer.status, issuer.body = 200, good
    issuer.now += 30
    assert await keys.find("1")
    assert await keys.find("2") is None


async def test_an_issuer_that_comes_back_without_a_key_ends_it(issuer: Issuer) -> None:
    keys = issuer.keys(max_age=600.0, max_stale=3600.0, interval=30.0)
    assert await keys.find("1")
    issuer.status = 500
    issuer.now += 700
    assert await keys.find("1")
    issuer.status, issuer.body = 200, _document(jwk(OTHER, "2"))
    assert await keys.find("1"), "it is not asked again that soon"
    issuer.now += 30
    assert await keys.find("1") is None
    assert await keys.find("2")


async def test_only_one_waits_for_an_issuer_that_hangs_and_others_use_the_old_keys(issuer: Issuer) -> None:
    keys = issuer.keys(max_age=600.0)
    assert await keys.find("1")
    issuer.free.clear()
    issuer.now += 601
    waiting = asyncio.create_task(keys.find("1"))
    await until(lambda: issuer.fetches == 2)
    for _ in range(100):
        assert await keys.find("1")
    assert not waiting.done()
    issuer.free.set()
    assert await waiting


async def test_a_long_failure_is_told_now_and_then_and_so_is_its_end(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "verani.auth")
    keys = issuer.keys(max_age=600.0, max_stale=10_000.0, interval=30.0)
    assert await keys.find("1")
    issuer.status = 500
    issuer.now += 600
    for _ in range(20):
        assert await keys.find("1")
        issuer.now += 30
    assert issuer.fetches == 21
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "the keys there are go on for " in caplog.text
    issuer.status = 200
    assert await keys.find("1")
    assert caplog.records[-1].getMessage().endswith("after 20 attempts that failed")


async def test_an_issuer_that_does_not_answer_is_given_up(issuer: Issuer) -> None:
    issuer.free.clear()
    with pytest.raises(RoomBusy):
        await issuer.keys(timeout=0.05).find("1")


async def test_nothing_is_fetched_from_where_a_token_says(issuer: Issuer) -> None:
    verifier = jwt_auth(**GOOD)
    for header in ({"jku": issuer.url}, {"x5u": issuer.url}, {"jku": issuer.url, "kid": "1"}):
        forged = sign({}, header={"alg": "RS256", **header}, key=OTHER)
        with pytest.raises(Unauthorized):
            await verifier.verify_token(forged)
    assert issuer.fetches == 0


def test_a_claim_for_a_field_that_the_meta_does_not_have_is_told_when_the_room_is_defined() -> None:
    class Member(ConnectionMeta):
        role: str = "guest"

    claims = {"roel": "https://team.example.com/role"}
    verifier = jwt_auth(algorithms=["HS256"], audience="team", key="k" * 32, claims=claims)
    with pytest.raises(DefinitionError, match=r"fields of Member \(channels, client_id, role, user_id\), got roel"):
        define_room("team", meta=Member, extract_meta=verifier)
    with pytest.raises(DefinitionError, match=r"fields of Member \(channels, client_id, role, user_id\), got roel"):
        define_room("team", meta=Member).extract_meta(verifier)
