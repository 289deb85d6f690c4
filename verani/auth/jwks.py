"""Hold the keys that tokens are verified with: a configured one, or a JSON Web Key Set (RFC 7517).

Which key a token is checked with follows from the configuration and, among the keys of a set, from the token's `kid`;
nothing else in a token is looked at here, and nothing is fetched from where a token says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import aiohttp
import jwt
import msgspec
from yarl import URL

from ..errors import DefinitionError, RoomBusy

__all__ = ["ALGORITHMS", "FixedKey", "Key", "KeySet", "KeySource", "RemoteKeySet", "parse_key_set"]

logger = logging.getLogger(__name__)

# The algorithms there are, by the type and curve of their keys (RFC 7518 3.1, RFC 8037 3.1).
ALGORITHMS = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), ("oct", None)),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}

# Far more than any issuer publishes.
MAX_KEYS = 100
MAX_KEY_SET_BYTES = 512 << 10

# Seconds after which a first fetch that failed is tried again; until then clients are told to come back.
RETRY_AFTER = 5.0

# Seconds for which keys outlive their age while new ones cannot be fetched: an issuer may be away for a night.
MAX_STALE = 12 * 3600.0

# Seconds between two lines of the log that say that fetching still fails.
_TELL_EVERY = 300.0

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Key(NamedTuple):
    """A prepared key and the algorithms it may be used with."""

    key: Any
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    """Where a verifier gets its key from."""

    async def find(self, kid: str | None) -> Key | None:
        """Return the key for a token with this `kid`, None if there is none.

        Raises `RoomBusy` while it cannot be known which keys there are.
        """


class FixedKey:
    """One configured key, whatever `kid` a token names."""

    def __init__(self, key: str | bytes, algorithms: Sequence[str]) -> None:
        try:
            for name in algorithms:
                algorithm = jwt.get_algorithm_by_name(name)
                prepared = algorithm.prepare_key(key)
                if hasattr(prepared, "private_bytes"):
                    raise DefinitionError("jwt_auth: expected a public key=, got a private one, which only signs")
                weakness = algorithm.check_key_length(prepared)
                if weakness is not None:
                    raise DefinitionError(f"jwt_auth: {weakness}")
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            # Without the cause, whose text or traceback might show the key.
            raise DefinitionError(
                f"jwt_auth: expected a key that fits {', '.join(algorithms)}, got another one ({type(error).__name__})"
            ) from None
        self._key = Key(prepared, tuple(algorithms))

    async def find(self, kid: str | None) -> Key | None:
        """Return the key."""
        return self._key


class KeySet:
    """The keys of one set, by their `kid`."""

    def __init__(self, keys: dict[str | None, Key]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    async def find(self, kid: str | None) -> Key | None:
        """Return the key of this `kid`; a token without one means the only key there is."""
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)


def parse_key_set(text: bytes, algorithms: Sequence[str]) -> KeySet:
    """Read a JWKS document; keys that are not for these algorithms, or not for signatures, are left out.

    Raises ValueError for what is no such document.
    """
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a JSON Web Key Set: {error}") from error
    keys: dict[str | None, Key] = {}
    for jwk in document.keys[:MAX_KEYS]:
        key = _parse_key(jwk, algorithms)
        kid = jwk.get("kid")
        if key is not None and (kid is None or isinstance(kid, str)):
            keys.setdefault(kid, key)
    return KeySet(keys)


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def _parse_key(jwk: dict[str, Any], algorithms: Sequence[str]) -> Key | None:
    kind = jwk.get("kty")
    usable = tuple(
        name
        for name in algorithms
        if ALGORITHMS[name][0] == kind
        and ALGORITHMS[name][1] in (None, jwk.get("crv"))
        and jwk.get("alg") in (None, name)
    )
    if kind == "oct" or "d" in jwk or not usable or jwk.get("use") not in (None, "sig"):
        return None  # a secret or a private key does not belong there
    try:
        algorithm = jwt.get_algorithm_by_name(usable[0])
        key = algorithm.from_jwk(jwk)
        return None if algorithm.check_key_length(key) else Key(key, usable)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        logger.debug("a key of the key set cannot be used", exc_info=True)
        return None


class RemoteKeySet:
    """The key set at a URL, fetched when needed and kept for `max_age` seconds.

    One fetch at a time, of at most `timeout` seconds and 512 KiB, without redirects. A `kid` that is not in the set
    makes it fetch again, at most once in `interval` seconds: rotated keys are found, and made-up ones cost nothing.
    While fetching fails, the keys that there were go on for `max_stale` seconds more, and whoever has one of them does
    not wait for the next attempt; what they do not have is not refused for good meanwhile.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        max_age: float = 600.0,
        max_stale: float = MAX_STALE,
        interval: float = 30.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parsed = URL(url)
        if not (parsed.scheme == "https" or (parsed.scheme == "http" and parsed.host in _LOOPBACK)):
            raise DefinitionError("jwt_auth: expected an https:// jwks_url")
        self._url = parsed
        self._algorithms = tuple(algorithms)
        self._max_age = max_age
        self._max_stale = max_stale
        self._interval = interval
        self._timeout = timeout
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()
        # Attempts that failed since the last one that did not, and when that was last told.
        self._failures = 0
        self._told_at = 0.0

    async def find(self, kid: str | None) -> Key | None:
        """Return the key of this `kid`, after a fetch if that may help."""
        asked_at = self._clock()
        key = await self._known(kid, asked_at)
        if key is not None and (self._is_fresh(asked_at) or self._fetching.locked()):
            return key
        async with self._fetching:
            # Somebody else may have fetched while this one waited.
            if self._may_fetch(asked_at):
                await self._fetch()
        now = self._clock()
        key = await self._known(kid, now)
        if key is None and not self._is_fresh(now):
            raise RoomBusy("the keys that tokens are verified with are out of reach", retry_after=RETRY_AFTER)
        return key

    async def _known(self, kid: str | None, now: float) -> Key | None:
        """Look a key up among those that there are, old ones included."""
        keys = self._kept(now)
        return await keys.find(kid) if keys is not None else None

    def _kept(self, now: float) -> KeySet | None:
        return self._keys if now - self._fetched_at < self._max_age + self._max_stale else None

    def _is_fresh(self, now: float) -> bool:
        return self._keys is not None and now - self._fetched_at < self._max_age

    def _may_fetch(self, asked_at: float) -> bool:
        if self._tried_at is None:
            return True
        now = self._clock()
        pause = self._interval if self._kept(now) is not None else min(self._interval, RETRY_AFTER)
        return self._tried_at < asked_at and now - self._tried_at >= pause

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            keys = parse_key_set(await self._read(), self._algorithms)
            if not len(keys):
                raise ValueError("expected a key that can be used")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._tell_failure(error)
            return
        if self._failures:
            logger.info("fetched the key set from %s after %d attempts that failed", self._url.host, self._failures)
        self._failures = 0
        self._keys = keys
        self._fetched_at = self._clock()

    def _tell_failure(self, error: Exception) -> None:
        """Log the first failure, and then one in a while."""
        now = self._clock()
        self._failures += 1
        if self._failures == 1 or now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            # Texts of these have the query of the URL.
            is_secret = isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL)
            reason = f"{type(error).__name__}: {error}" if isinstance(error, ValueError) and not is_secret else ""
            logger.warning(
                "fetching the key set from %s failed (%s), attempt %d%s",
                self._url.host,
                reason or type(error).__name__,
                self._failures,
                self._outlook(now),
            )
            if not is_secret:
                logger.debug("fetching the key set failed", exc_info=error)

    def _outlook(self, now: float) -> str:
        left = self._fetched_at + self._max_age + self._max_stale - now
        return f"; the keys there are go on for {left:.0f} s" if self._keys is not None and left > 0 else ""

    async def _read(self) -> bytes:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout)) as session,
            session.get(self._url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"expected the status 200, got {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_KEY_SET_BYTES:
                    raise ValueError(f"expected at most {MAX_KEY_SET_BYTES} bytes")
            return bytes(body)
