"""Which offers of permessage-deflate are taken (RFC 7692 7.1)."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from verani_gateway.http.extensions import offers_deflate


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "Permessage-Deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate;client_max_window_bits=10",
        'permessage-deflate; client_max_window_bits="8"',
        "permessage-deflate; server_max_window_bits=15",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate",
        "permessage-deflate; server_max_window_bits=10, permessage-deflate",
    ],
)
def test_what_can_be_accepted_is(offer: str) -> None:
    assert offers_deflate(CIMultiDict({"Sec-WebSocket-Extensions": offer}))


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "deflate",
        "permessage-deflated",
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; level=9",
        "permessage-deflate;",
    ],
)
def test_what_is_unknown_twice_there_or_out_of_range_is_declined(offer: str) -> None:
    assert not offers_deflate(CIMultiDict({"Sec-WebSocket-Extensions": offer}))


def test_all_lines_of_the_header_are_one_list() -> None:
    lines = [("Sec-WebSocket-Extensions", "mux"), ("Sec-WebSocket-Extensions", "permessage-deflate")]
    assert offers_deflate(CIMultiDict(lines))
    assert not offers_deflate(CIMultiDict())
