"""Find why a connection failed behind what aiohttp raises."""

from __future__ import annotations

import os

import aiohttp

__all__ = ["bare", "cause_of", "reason_of", "speaks_no_tls"]

# Reasons of OpenSSL's for a first record that is none.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})


def cause_of(error: Exception) -> tuple[Exception, str]:
    """Return what is behind an error of aiohttp, and its text without aiohttp's additions."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error, str(error.certificate_error)
        case aiohttp.ClientSSLError():  # a number of OpenSSL's, not of the system's
            return error.os_error, str(error.os_error)
        case aiohttp.ClientConnectorError():
            return error.os_error, reason_of(error.os_error)
        case aiohttp.ServerDisconnectedError():  # it may show what came of the answer's headers, cookies too
            return aiohttp.ServerDisconnectedError(), "the server closed the connection and had not answered"
        case _:
            return error, f"{type(error).__name__}: {error}"


def reason_of(error: OSError) -> str:
    """Return why the system could not connect, without what event loops add to it."""
    if error.errno is not None and error.errno > 0:  # those of name resolution are negative, and have texts
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


def speaks_no_tls(error: BaseException) -> bool:
    """Tell whether what failed is TLS with a port that speaks something else."""
    return getattr(error, "reason", None) in _NO_TLS


def bare(error: BaseException) -> BaseException:
    """Return `error` without its traceback and what is chained to it: the frames of the library below tell nothing."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
