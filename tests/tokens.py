"""Make bearer tokens as issuers do, and as no issuer would: every part of one can be replaced."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = [
    "AUDIENCE",
    "ISSUER",
    "OTHER",
    "RSA",
    "SECRET",
    "claims",
    "encode_part",
    "jwk",
    "private_pem",
    "public_pem",
    "sign",
    "token",
]

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECRET = b"a secret of the service, 32 bytes or more"

AUDIENCE = "chat"
ISSUER = "https://issuer.test"


def public_pem(key: rsa.RSAPrivateKey = RSA) -> bytes:
    """Write the public key as PEM."""
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: rsa.RSAPrivateKey = RSA) -> bytes:
    """Write the private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def jwk(key: rsa.RSAPrivateKey, kid: str | None, **more: Any) -> dict[str, Any]:
    """Write the public key as a JSON Web Key."""
    known: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    del known["key_ops"]
    return {**known, **({} if kid is None else {"kid": kid}), **more}


def claims(**more: Any) -> dict[str, Any]:
    """Return good claims of ann's, an hour long; an Ellipsis leaves one out."""
    now = int(time.time())
    good = {"sub": "ann", "aud": AUDIENCE, "iss": ISSUER, "iat": now, "exp": now + 3600, **more}
    return {name: value for name, value in good.items() if value is not ...}


def encode_part(part: Any) -> str:
    """Encode bytes, or anything as JSON, as one part of a token."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(payload: Any, *, header: dict[str, Any] | None = None, alg: str = "RS256", key: Any = RSA) -> str:
    """Sign a payload, which may be bytes that are no JSON; `header` replaces the good one."""
    signed = f"{encode_part(header or {'alg': alg, 'typ': 'JWT'})}.{encode_part(payload)}"
    algorithm = jwt.get_algorithm_by_name(alg)
    return f"{signed}.{encode_part(algorithm.sign(signed.encode(), key))}"


def token(*, kid: str | None = None, key: Any = RSA, alg: str = "RS256", **more: Any) -> str:
    """Sign good claims, these ones replaced."""
    header = {"alg": alg, "typ": "JWT", **({} if kid is None else {"kid": kid})}
    return sign(claims(**more), header=header, alg=alg, key=key)
