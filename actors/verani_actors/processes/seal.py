"""Let only those messages in that are authentic and not too large: stand-ins for what Thespian's transport uses.

There is no secrecy, and no protection against what is sent again.
"""

from __future__ import annotations

import hmac
import pickle
from typing import Any, Final

from thespian.system.transport.streamBuffer import ReceiveBuffer

__all__ = ["LARGEST", "BoundedBuffer", "Rejected", "Seal"]

# Bytes of one message, its MAC included. Control messages are far smaller.
LARGEST: Final = 1 << 20
# A length has at most 7 digits; Thespian reads 20 bytes at first.
_LONGEST_HEADER: Final = 8
_MAC: Final = 32


class Rejected(Exception):
    """What came is malformed, too large or not authentic."""


class Seal:
    """Stand in for `pickle` at Thespian's transport: only what carries the MAC is unpickled."""

    def __init__(self, secret: bytes) -> None:
        # A key of its own: links make theirs from the same secret.
        self._key = hmac.digest(secret, b"verani control plane 1", "sha256")

    def dumps(self, message: object) -> bytes:
        """Pickle a message, with its MAC before it."""
        content = pickle.dumps(message)
        return self._mac(content) + content

    def loads(self, sealed: bytes) -> Any:
        """Unpickle a message if its MAC is right; `Rejected` otherwise."""
        content = sealed[_MAC:]
        if not hmac.compare_digest(sealed[:_MAC], self._mac(content)):
            raise Rejected("wrong cluster secret")
        return pickle.loads(content)

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")


class BoundedBuffer(ReceiveBuffer):
    """Refuse a length that is malformed or too large before anything is stored; `refused` says why a message was."""

    refused = ""

    def completed(self) -> Any:
        try:
            return super().completed()
        except Rejected as error:
            self.refused = str(error)
            raise

    def addMore(self, buf: bytes) -> None:
        if self._size is None:
            head, mark, _ = (self._buf + buf)[: _LONGEST_HEADER + 1].partition(b">")
            if mark:
                valid = head.isdigit() and int(head) <= LARGEST
            else:
                valid = len(head) < _LONGEST_HEADER and (not head or head.isdigit())
            if not valid:
                self.refused = "malformed or too large"
                raise Rejected(self.refused)
        super().addMore(buf)
