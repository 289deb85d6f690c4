"""Who may reach a listener, as tables: what is asked, and the answer."""

import pytest
from multidict import CIMultiDict

from verani_gateway.access import (
    client_address,
    forwarded_host,
    forwarded_scheme,
    host_allowed,
    is_host_name,
    is_loopback,
    is_network,
    is_origin,
    origin_allowed,
)


@pytest.mark.parametrize(
    ("origin", "host", "secure", "expected"),
    [
        (None, "app.com", False, True),
        (None, None, False, True),
        ("http://app.com", "app.com", False, True),
        ("HTTP://APP.com", "aPP.COM", False, True),
        ("http://app.com:80", "app.com", False, True),
        ("http://app.com", "app.com:80", False, True),
        ("https://app.com", "app.com", True, True),
        ("https://app.com", "app.com:443", True, True),
        ("http://app.com:8000", "app.com:8000", False, True),
        ("http://[::1]:8000", "[0:0:0:0:0:0:0:1]:8000", False, True),
        ("https://app.com", "app.com", False, False),
        ("http://app.com", "app.com", True, False),
        ("http://app.com:8001", "app.com:8000", False, False),
        ("http://app.com", "app.com:8000", False, False),
        ("https://app.com.evil.com", "app.com", True, False),
        ("https://evilapp.com", "app.com", True, False),
        ("https://evil.com", "app.com", True, False),
        ("https://app.com.", "app.com", True, False),
        ("http://localhost:8000", "127.0.0.1:8000", False, False),
        ("null", "app.com", False, False),
        ("null", "null", False, False),
        ("", "app.com", False, False),
        ("", "", False, False),
        ("http://app.com", None, False, False),
        ("http://app.com", "", False, False),
        ("app.com", "app.com", False, False),
        ("http://app.com/", "app.com", False, False),
        ("http://app.com\n", "app.com", False, False),
        ("http://app.com:", "app.com", False, False),
        ("http://app.com:0", "app.com:0", False, False),
        ("http://app.com:99999", "app.com:99999", False, False),
        ("http://app.com:٨٠", "app.com", False, False),
        ("http://user@app.com", "app.com", False, False),
        ("http://app.com@evil.com", "app.com", False, False),
        ("http://app.com http://evil.com", "app.com", False, False),
        ("http://app.com, http://evil.com", "app.com", False, False),
        ("http://[zz]", "[zz]", False, False),
        ("http://[::1", "[::1", False, False),
        ("http://\u212aapp.com", "kapp.com", False, False),
    ],
)
def test_an_origin_must_be_that_of_the_request(
    origin: str | None, host: str | None, secure: bool, expected: bool
) -> None:
    assert origin_allowed(origin, host, secure=secure, allowed=()) is expected


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        ("https://app.com", ("https://app.com",), True),
        ("https://app.com:443", ("HTTPS://App.com",), True),
        ("https://two.com", ("https://one.com", "https://two.com"), True),
        ("capacitor://localhost", ("capacitor://localhost",), True),
        ("http://app.com", ("https://app.com",), False),
        ("https://app.com:444", ("https://app.com",), False),
        ("https://app.com.evil.com", ("https://app.com",), False),
        ("https://sub.app.com", ("https://app.com",), False),
        ("https://", ("https://",), False),
        ("null", ("null",), False),
        ("null", ("https://app.com",), False),
        ("https://anything.example", ("*",), True),
        ("null", ("*",), True),
    ],
)
def test_an_origin_may_be_one_that_is_listed(origin: str, allowed: tuple[str, ...], expected: bool) -> None:
    assert origin_allowed(origin, "gateway.internal:8000", secure=False, allowed=allowed) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("127.1", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "bound", "extra", "expected"),
    [
        ("localhost:8001", (), (), True),
        ("127.0.0.1:8001", (), (), True),
        ("[::1]:8001", (), (), True),
        ("10.0.0.5:8001", ("10.0.0.5",), (), True),
        ("[FD00::5]:8001", ("fd00:0::5",), (), True),
        ("Verani.Internal", (), ("verani.internal",), True),
        ("10.0.0.6:8001", ("10.0.0.5",), (), False),
        ("evil.com", ("10.0.0.5",), ("verani.internal",), False),
        ("evil.com:8001", (), (), False),
        ("localhost.evil.com", (), (), False),
        ("0.0.0.0:8001", ("0.0.0.0",), (), False),
        ("[::]:8001", ("::",), (), False),
        ("localhost@evil.com", (), (), False),
        ("", (), ("",), False),
        ("", ("",), (), False),
        (None, (), (), False),
    ],
)
def test_a_host_header_must_name_the_listener(
    host: str | None, bound: tuple[str, ...], extra: tuple[str, ...], expected: bool
) -> None:
    assert host_allowed(host, bound=bound, extra=extra) is expected


PROXIES = ("10.0.0.0/8", "192.168.1.1", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7:51234"], "203.0.113.7"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:DB8::7]:443"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("fd00::1", ["203.0.113.7"], "203.0.113.7"),
        ("192.168.1.1", ["203.0.113.7 , 10.0.0.9,10.0.0.8"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7", "10.0.0.9"], "203.0.113.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        # What stands left of the first untrusted address is that client's own claim.
        ("10.0.0.1", ["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        # A peer that is not trusted is the client, whatever it says.
        ("203.0.113.7", ["1.1.1.1"], "203.0.113.7"),
        ("192.168.1.2", ["1.1.1.1"], "192.168.1.2"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        # A malformed entry ends the reading.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["1.1.1.1,"], "10.0.0.1"),
        ("10.0.0.1", ["999.1.1.1"], "10.0.0.1"),
        ("10.0.0.1", ["<script>"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        # No address at all: a Unix socket, or no transport any more.
        ("", ["1.1.1.1"], ""),
        (None, ["1.1.1.1"], None),
    ],
)
def test_the_client_address_is_the_first_untrusted_one_from_the_right(
    peer: str | None, lines: list[str], expected: str | None
) -> None:
    headers = CIMultiDict([("x-forwarded-for", line) for line in lines])
    assert client_address(peer, headers, PROXIES) == expected


def test_without_trusted_proxies_forwarding_headers_mean_nothing() -> None:
    headers = CIMultiDict(
        {"Host": "app.com", "X-Forwarded-For": "1.1.1.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.com"}
    )
    assert client_address("127.0.0.1", headers, ()) == "127.0.0.1"
    assert forwarded_scheme("127.0.0.1", headers, (), default="http") == "http"
    assert forwarded_host("127.0.0.1", headers, ()) == "app.com"


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("10.0.0.1", ["https"], "https"),
        ("10.0.0.1", ["HTTPS"], "https"),
        ("10.0.0.1", ["wss"], "https"),
        ("10.0.0.1", ["https, http"], "http"),
        ("10.0.0.1", ["http", "https"], "https"),
        ("10.0.0.1", ["ftp"], "http"),
        ("10.0.0.1", [""], "http"),
        ("10.0.0.1", [], "http"),
        ("203.0.113.7", ["https"], "http"),
        (None, ["https"], "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_trusted_proxy_says(peer: str | None, lines: list[str], expected: str) -> None:
    headers = CIMultiDict([("X-Forwarded-Proto", line) for line in lines])
    assert forwarded_scheme(peer, headers, PROXIES, default="http") == expected


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("10.0.0.1", ["app.com"], "app.com"),
        ("10.0.0.1", ["app.com:8443"], "app.com:8443"),
        ("10.0.0.1", ["evil.com, app.com"], "app.com"),
        ("10.0.0.1", ["app.com/path"], "gateway:8000"),
        ("10.0.0.1", ["a b"], "gateway:8000"),
        ("10.0.0.1", [], "gateway:8000"),
        ("203.0.113.7", ["evil.com"], "gateway:8000"),
        (None, ["evil.com"], "gateway:8000"),
    ],
)
def test_the_host_is_what_the_nearest_trusted_proxy_says(peer: str | None, lines: list[str], expected: str) -> None:
    headers = CIMultiDict([("Host", "gateway:8000"), *(("X-Forwarded-Host", line) for line in lines)])
    assert forwarded_host(peer, headers, PROXIES) == expected


def test_entries_of_settings_are_told_apart_from_mistakes() -> None:
    assert all(map(is_origin, ("*", "https://app.com", "http://localhost:3000", "capacitor://localhost")))
    assert not any(map(is_origin, ("null", "app.com", "https://app.com/", "https://*.app.com", "")))
    assert all(map(is_network, ("10.0.0.1", "10.0.0.0/8", "10.1.2.3/8", "fd00::/8", "::1")))
    assert not any(map(is_network, ("proxy", "10.0.0.0/33", "10.0.0", "*", "")))
    assert all(map(is_host_name, ("verani", "verani.internal", "10.0.0.1", "::1", "[::1]")))
    assert not any(map(is_host_name, ("verani:8001", "http://verani", "*", "a b", "")))
