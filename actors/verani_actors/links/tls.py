"""Make the TLS contexts of links between machines: both ends show a certificate, and only those of one authority link.

The authority is that of the files `link_cert`, `link_key` and `link_ca`, else one that every process derives from the
cluster secret, which itself is never sent. Who may link is all that certificates decide: names are not looked at,
since members are told apart by what they say over the link.

Invariants:
- TLS 1.3 only, and a certificate is required of both ends.
- Made certificates are valid at any time a clock may show; their private keys are never on a disk.
"""

from __future__ import annotations

import datetime
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from verani.errors import SettingsError
from verani.settings import Settings

from ..upkeep.refusals import Refusals

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["client_context", "server_context"]

logger = logging.getLogger(__name__)

# What the key of the authority is derived for (RFC 5869 3.2).
_PURPOSE = b"verani link authority 1"

# As far as X.509 reaches (RFC 5280 4.1.2.5).
_FIRST = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def server_context(settings: Settings, secret: bytes, *, refusals: Refusals | None = None) -> ssl.SSLContext:
    """Make the context of a host; handshakes that fail are counted in `refusals`.

    Raises SettingsError for files that cannot be used, or without `cryptography` where certificates are to be made.
    """
    counted = refusals if refusals is not None else Refusals(logger)

    class Witness(ssl.SSLObject):
        """Tells of handshakes that fail: event loops do not."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                counted.add("the TLS handshake failed", error.reason or error)
                raise

    context = _context(ssl.PROTOCOL_TLS_SERVER, settings, secret)
    context.sslobject_class = Witness
    # A session that is resumed would skip what is checked here.
    context.num_tickets = 0
    return context


def client_context(settings: Settings, secret: bytes) -> ssl.SSLContext:
    """Make the context of a gateway; raises as `server_context` does."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, settings, secret)


def _context(protocol: int, settings: Settings, secret: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    files = (settings.link_cert, settings.link_key, settings.link_ca)
    if any(files):
        _use_files(context, *files)
    else:
        _use_secret(context, secret)
    return context


def _use_files(context: ssl.SSLContext, cert: str | None, key: str | None, ca: str | None) -> None:
    if cert is None or key is None or ca is None:
        raise SettingsError("link_cert, link_key and link_ca are set all three or not at all")
    try:
        context.load_cert_chain(cert, key, _no_password)
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(f"link_cert, link_key and link_ca cannot be used: {error}") from error


def _no_password() -> str:
    """Have a key with a password refused: OpenSSL would ask for it on the terminal."""
    raise ValueError("the key has a password")


def _use_secret(context: ssl.SSLContext, secret: bytes) -> None:
    if not secret:
        raise SettingsError("links between machines need the cluster secret, or link_cert, link_key and link_ca")
    try:
        authority, leaf, key = _certificates(secret)
    except ImportError as error:
        raise SettingsError(
            "links between machines need the package cryptography (the extra `cluster`, or pip install cryptography), "
            "or link_cert, link_key and link_ca"
        ) from error
    context.load_verify_locations(cadata=authority)
    with _in_memory(leaf + key) as path:
        context.load_cert_chain(path)


def _certificates(secret: bytes) -> tuple[str, bytes, bytes]:
    """Derive the authority's certificate from the secret; make a certificate signed by it, and its key. All PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    pem = serialization.Encoding.PEM
    seed = HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(secret)
    authority_key = Ed25519PrivateKey.from_private_bytes(seed)
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "verani links")])
    identity = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

    def certificate(name: str, key: Ed25519PrivateKey, serial: int, *, is_authority: bool) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            key_cert_sign=is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder(authority, subject, key.public_key(), serial, _FIRST, _LAST)
            .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
        )

    # Nothing random goes into the authority's: it is the same in every process.
    root = certificate("verani links", authority_key, 1, is_authority=True).sign(authority_key, None)
    key = Ed25519PrivateKey.generate()
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf = certificate("verani link", key, x509.random_serial_number(), is_authority=False)
    leaf = leaf.add_extension(usages, critical=False)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return root.public_bytes(pem).decode(), leaf.sign(authority_key, None).public_bytes(pem), private


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """Give what OpenSSL reads only from a file a path, without a file on any disk."""
    descriptor = os.memfd_create("verani-link", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
