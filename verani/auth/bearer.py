"""Identify clients by a signed token (RFC 7519), verified as RFC 8725 advises.

How a signature is checked is PyJWT's business; which key it is checked with is `jwks.py`.

Invariants:
- Keys and algorithms come from the configuration alone; of a token's header only `alg` and `kid` are looked at, and
  only to be found among them.
- Whatever is wrong with a token, the client gets the same 401; why is logged at DEBUG, and the token never.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn

import msgspec

try:
    import jwt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("jwt_auth needs PyJWT: pip install 'pyjwt[crypto]'", name=error.name) from error

from ..errors import DefinitionError, Unauthorized
from ..names import check_name
from ..room.meta import FIXED_FIELDS, ConnectionMeta, make_meta
from ..room.request import BEARER, ConnectRequest, GivenMeta, Identity
from .jwks import ALGORITHMS, FixedKey, KeySource, RemoteKeySet, parse_key_set

__all__ = ["MAX_TOKEN", "Claims", "JwtVerifier", "jwt_auth"]

logger = logging.getLogger(__name__)

# Above what proxies let pass in a header or URL.
MAX_TOKEN = 8192

# What a clock may be wrong by, in seconds.
LEEWAY = 30.0

# How the fields of a meta are found in the claims: their names by field, or a function of all claims.
Claims = Mapping[str, str] | Callable[[Mapping[str, Any]], Mapping[str, Any]]

# RFC 7515 7.1: three parts of base64url without padding; a token that is not signed has no third.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)

# Largest number that is exact wherever tokens are made; far beyond any date.
_MAX_DATE = 2**53

# Claims about the token itself (RFC 7519 4.1), which are no fields unless a meta has fields of these names.
_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})


def jwt_auth(
    *,
    algorithms: Sequence[str],
    audience: str | None,
    issuer: str | None = None,
    key: str | bytes | None = None,
    jwks_file: str | Path | None = None,
    jwks_url: str | None = None,
    claims: Claims | None = None,
    accept_audience_list: bool = False,
    leeway: float = LEEWAY,
) -> JwtVerifier:
    """Make an `extract_meta` that takes a token from a header, a subprotocol or the query.

    That is ``Authorization: Bearer TOKEN``, else an offered subprotocol ``bearer.TOKEN``, else ``?token=TOKEN``.

    Exactly one of `key` (a shared secret for HS*, a public key as PEM otherwise), `jwks_file` (read now) and
    `jwks_url` (fetched when needed, kept for 10 minutes) says what tokens are signed with, and `algorithms` how.
    `audience` is what `aud` must be, None to take tokens for anybody; a list of audiences is refused unless
    `accept_audience_list`, because each of them could show the token here. `leeway` is in seconds.

    `exp` and `sub` are required; `sub` is the user id, `exp` the expiry of the identity. Own fields of the
    definition's meta are filled by claims of the same name, checked against their types. `claims` says otherwise:
    ``{"role": "https://example.com/role"}`` names the claim of a field, a plain function makes the fields of
    all claims. The channels are ``("default",)`` and the client id is made here, unless `claims` fills them.

    Every fault of a token is a 401 that looks the same; while no keys can be fetched it is 503. Raises
    `DefinitionError` for a configuration that is wrong or unsafe.
    """
    names = _check_algorithms(algorithms)
    if audience is not None and (not isinstance(audience, str) or not audience):
        raise DefinitionError(f"jwt_auth: expected audience= to be a string or None, got {audience!r}")
    if issuer is not None and (not isinstance(issuer, str) or not issuer):
        raise DefinitionError(f"jwt_auth: expected issuer= to be a string or None, got {issuer!r}")
    if not 0 <= leeway <= 300:
        raise DefinitionError(f"jwt_auth: expected leeway= from 0 to 300 seconds, got {leeway!r}")
    _check_claims(claims)
    return JwtVerifier(
        _key_source(names, key, jwks_file, jwks_url),
        audience=audience,
        issuer=issuer,
        claims=claims,
        accept_audience_list=accept_audience_list,
        leeway=leeway,
    )


def _check_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(algorithms, str) else tuple(dict.fromkeys(algorithms))
    if not names or not all(name in ALGORITHMS for name in names):
        raise DefinitionError(
            f"jwt_auth: expected algorithms= to be a list of some of {', '.join(ALGORITHMS)}, got {algorithms!r}"
        )
    if len({name.startswith("HS") for name in names}) > 1:
        raise DefinitionError("jwt_auth: expected algorithms= of one kind: a public key is no secret for HS*")
    return names


def _check_claims(claims: Claims | None) -> None:
    if claims is None or callable(claims):
        return
    if not isinstance(claims, Mapping) or not all(isinstance(name, str) for pair in claims.items() for name in pair):
        raise DefinitionError(f"jwt_auth: expected claims= to be a mapping of names or a function, got {claims!r}")
    if "user_id" in claims:
        raise DefinitionError("jwt_auth: the user id is the claim sub; expected no other in claims=")


def _key_source(
    algorithms: tuple[str, ...], key: str | bytes | None, file: str | Path | None, url: str | None
) -> KeySource:
    if sum(given is not None for given in (key, file, url)) != 1:
        raise DefinitionError("jwt_auth: expected exactly one of key=, jwks_file= and jwks_url=")
    if key is not None:
        return FixedKey(key, algorithms)
    if algorithms[0].startswith("HS"):
        raise DefinitionError("jwt_auth: expected key= for HS*: a published key set holds no secrets")
    if url is not None:
        return RemoteKeySet(url, algorithms)
    assert file is not None
    try:
        keys = parse_key_set(Path(file).read_bytes(), algorithms)
    except (OSError, ValueError) as error:
        raise DefinitionError(f"jwt_auth: expected jwks_file= to be a JSON Web Key Set: {error}") from error
    if not len(keys):
        raise DefinitionError(f"jwt_auth: expected a key for {', '.join(algorithms)} in {file}")
    return keys


class JwtVerifier:
    """What `jwt_auth` makes: an `extract_meta` that also verifies the bare tokens of refreshes.

    Code of yours may call it, too: the identity that it returns then has the fields as a dict, ``user_id`` among them,
    or a meta of the type that was given to `for_meta`.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        audience: str | None,
        issuer: str | None = None,
        claims: Claims | None = None,
        accept_audience_list: bool = False,
        leeway: float = LEEWAY,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._claims = claims
        self._leeway = leeway
        self._kind: type[ConnectionMeta] | None = None
        required = ["exp", "sub", *(["aud"] if audience is not None else []), *(["iss"] if issuer is not None else [])]
        self._options: Any = {
            "require": required,
            "verify_aud": audience is not None,
            "strict_aud": not accept_audience_list,
            "enforce_minimum_key_length": True,
        }

    async def __call__(self, request: ConnectRequest) -> Identity:
        """Identify whoever brings the token in this request."""
        return await self.verify_token(_token_of(request))

    async def verify_token(self, token: str, /) -> Identity:
        """Identify whoever the token is for; raises `Unauthorized`."""
        if len(token) > MAX_TOKEN or _COMPACT.fullmatch(token) is None:
            _refuse("it is too long or has not the form of a token")
        claims = await self._verified(token)
        for name in ("exp", "nbf", "iat"):
            if name in claims and not (type(claims[name]) in (int, float) and abs(claims[name]) < _MAX_DATE):
                _refuse(f"{name} is no date")
        try:
            check_name(claims["sub"], "sub")
        except (TypeError, ValueError):
            _refuse("sub may not be a user id")
        return Identity(self._meta(claims), claims["exp"])

    async def _verified(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header:  # RFC 7515 4.1.11: what must be understood, and no extension is here
                _refuse("it has a critical extension")
            key = await self._keys.find(header.get("kid"))
            if key is None:
                _refuse("no key has its kid")
            return jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options=self._options,
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError, NotImplementedError) as error:
            _refuse(f"{type(error).__name__}: {error}")

    def for_meta(self, kind: type[ConnectionMeta]) -> JwtVerifier:
        """Return the same verifier, whose identities hold a meta of this type; each definition asks for its own.

        Raises `DefinitionError` if `claims` names a field that this meta lacks.
        """
        if self._claims is not None and not callable(self._claims):
            known = {field.name for field in msgspec.structs.fields(kind)}
            if unknown := sorted(self._claims.keys() - known):
                raise DefinitionError(
                    f"jwt_auth: expected claims= to fill fields of {kind.__name__} ({', '.join(sorted(known))}), "
                    f"got {', '.join(unknown)}"
                )
        verifier = copy.copy(self)
        verifier._kind = kind
        return verifier

    def _meta(self, claims: Mapping[str, Any]) -> GivenMeta:
        """Make a meta of the type that was asked for, else a mapping of its fields."""
        if self._kind is None:
            return {**self._given(claims, claims.keys() - _REGISTERED), "user_id": claims["sub"]}
        names = {field.name for field in msgspec.structs.fields(self._kind)}
        given = self._given(claims, names)
        if given.keys() - names:
            raise TypeError(f"jwt_auth: expected claims= to fill fields of {self._kind.__name__}, got {sorted(given)}")
        try:
            return make_meta(self._kind, {**given, "user_id": claims["sub"]})
        except msgspec.ValidationError as error:
            _refuse(f"its claims do not fit {self._kind.__name__}: {error}")

    def _given(self, claims: Mapping[str, Any], fields: Set[str]) -> Mapping[str, Any]:
        """Find what claims say about the fields of a meta; the fixed ones are filled by no claim of their name."""
        if callable(self._claims):
            return self._claims(claims)
        names = {**{field: field for field in fields - FIXED_FIELDS}, **(self._claims or {})}
        return {field: claims[name] for field, name in names.items() if name in claims}


def _token_of(request: ConnectRequest) -> str:
    header = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if header is not None:
        return header[1]
    offered = (each.removeprefix(BEARER) for each in request.subprotocols if each.startswith(BEARER))
    return next(offered, request.query.get("token", ""))


def _refuse(why: str) -> NoReturn:
    logger.debug("a token was refused: %s", why)
    raise Unauthorized("expected a valid token") from None
