"""Who may reach a listener, as tables: what is asked, and the answer."""

import pytest
from multidict import CIMultiDict

from verani.errors import InvalidArguments
from verani_gateway.http.access import (
    FORWARDING,
    UNIX,
    Client,
    client_of,
    host_allowed,
    is_host_name,
    is_host_pattern,
    is_loopback,
    is_origin,
    is_proxy,
    listed,
    only,
    origin_allowed,
    public_host_allowed,
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
        ("https://app.com.", "app.com", True, True),
        ("http://app.com", "app.com.", False, True),
        ("http://app.com:8000", "app.com.:8000", False, True),
        ("http://app.com..", "app.com", False, False),
        ("http://.", ".", False, False),
        ("file://", "app.com", False, False),
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
        ("https://app.com", ("https://app.com/",), True),
        ("https://app.com/", ("https://app.com/",), False),
        ("https://app.com.", ("https://app.com",), True),
        ("https://a.app.com", ("https://*.app.com",), True),
        ("https://a.b.app.com", ("https://*.app.com/",), True),
        ("https://a.app.com:8443", ("https://*.app.com:8443",), True),
        ("https://a.app.com:8443", ("https://*.app.com",), False),
        ("http://a.app.com", ("https://*.app.com",), False),
        ("https://app.com", ("https://*.app.com",), False),
        ("https://evilapp.com", ("https://*.app.com",), False),
        ("https://.app.com", ("https://*.app.com",), False),
        ("https://*.app.com", ("https://*.app.com",), False),
        ("https://a.app.com.evil.com", ("https://*.app.com",), False),
        ("http://127.0.0.1", ("http://*.0.0.1",), False),
        ("null", ("null",), True),
        ("null", ("file://",), False),
        ("file://", ("null",), False),
        ("file://", ("file://",), True),
        ("file://", ("file:///",), True),
        ("file://evil.com", ("file://",), False),
        ("app://.", ("app://.",), True),
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


def client(peer: str | None, *headers: tuple[str, str], trusted: tuple[str, ...] = PROXIES) -> Client:
    """Ask for the client of a plain HTTP request to ``gateway:8000``."""
    return client_of(peer, CIMultiDict([("Host", "gateway:8000"), *headers]), trusted, scheme="http")


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
        # A quote that a client leaves open swallows nothing of what the proxy writes.
        ("10.0.0.1", ['"1.1.1.1, 203.0.113.7'], "203.0.113.7"),
        ("10.0.0.1", ['1.1.1.1\\", 203.0.113.7'], "203.0.113.7"),
        ("10.0.0.1", ['"', "203.0.113.7"], "203.0.113.7"),
        # A peer that is not trusted is the client, whatever it says.
        ("203.0.113.7", ["1.1.1.1"], "203.0.113.7"),
        ("192.168.1.2", ["1.1.1.1"], "192.168.1.2"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        # A malformed entry ends the reading, an empty one is nothing (RFC 9110 5.6.1).
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.7,"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7", "", ", ,"], "203.0.113.7"),
        ("10.0.0.1", ["999.1.1.1"], "10.0.0.1"),
        ("10.0.0.1", ["<script>"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        # No transport any more.
        (None, ["1.1.1.1"], None),
    ],
)
def test_the_client_address_is_the_first_untrusted_one_from_the_right(
    peer: str | None, lines: list[str], expected: str | None
) -> None:
    assert client(peer, *(("x-forwarded-for", line) for line in lines)).address == expected


def test_a_chain_of_trusted_proxies_that_never_ends_is_read_no_further() -> None:
    chain = ", ".join(f"10.0.{number // 256}.{number % 256}" for number in range(1000))
    assert client("10.0.0.1", ("X-Forwarded-For", chain)).address == "10.0.3.200"


SAYS_ALL = (
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "app.com"),
)


def test_without_trusted_proxies_forwarding_headers_mean_nothing() -> None:
    headers = (*SAYS_ALL, ("Forwarded", "for=203.0.113.7;proto=https;host=app.com"))
    assert client("127.0.0.1", *headers, trusted=()) == ("127.0.0.1", "http", "gateway:8000", False)


def test_who_comes_over_a_unix_socket_is_trusted_under_that_name_only() -> None:
    assert client(UNIX, *SAYS_ALL, trusted=("unix",)) == ("203.0.113.7", "https", "app.com", True)
    assert client(UNIX, *SAYS_ALL, trusted=("127.0.0.1", "::1")) == ("unix", "http", "gateway:8000", False)
    assert client("127.0.0.1", *SAYS_ALL, trusted=("unix",)) == ("127.0.0.1", "http", "gateway:8000", False)
    assert client(UNIX, trusted=("unix",)) == ("unix", "http", "gateway:8000", False)


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("10.0.0.1", ["https"], "https"),
        ("10.0.0.1", ["HTTPS"], "https"),
        ("10.0.0.1", ["wss"], "https"),
        ("10.0.0.1", ["https, http"], "http"),
        ("10.0.0.1", ["http", "https"], "https"),
        ("10.0.0.1", ["https,"], "https"),
        ("10.0.0.1", ["https", ""], "https"),
        ("10.0.0.1", ["ftp"], "http"),
        ("10.0.0.1", [""], "http"),
        ("10.0.0.1", [], "http"),
        ("203.0.113.7", ["https"], "http"),
        (None, ["https"], "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_trusted_proxy_says(peer: str | None, lines: list[str], expected: str) -> None:
    assert client(peer, *(("X-Forwarded-Proto", line) for line in lines)).scheme == expected


@pytest.mark.parametrize(
    ("addresses", "schemes", "hosts", "expected"),
    [
        # TLS ended at 10.0.0.2, the outermost proxy that is trusted.
        ("203.0.113.7, 10.0.0.2", "https, http", "app.com, inner", ("203.0.113.7", "https", "app.com")),
        ("1.1.1.1, 203.0.113.7, 10.0.0.2", "ftp, https, http", "a, b, c", ("203.0.113.7", "https", "b")),
        # It is not trusted here: what it says counts for nothing.
        ("203.0.113.7, 203.0.113.2", "https, http", "app.com, inner", ("203.0.113.2", "http", "inner")),
        # A proxy that sets instead of adding.
        ("203.0.113.7, 10.0.0.2", "https", "app.com", ("203.0.113.7", "https", "app.com")),
        ("203.0.113.7", "http, https", "evil.com, app.com", ("203.0.113.7", "https", "app.com")),
        # What an outer one says wrongly leaves what an inner one said.
        ("203.0.113.7, 10.0.0.2", "gopher, https", "a b, app.com", ("203.0.113.7", "https", "app.com")),
        ("unknown, 10.0.0.2", "https, http", "app.com, inner", ("10.0.0.2", "https", "app.com")),
    ],
)
def test_the_outermost_trusted_proxy_has_the_last_word(
    addresses: str, schemes: str, hosts: str, expected: tuple[str, str, str]
) -> None:
    for separator in (", ", "|"):  # on one line, and on a line each
        headers = [
            (name, line)
            for name, value in zip(FORWARDING, (addresses, schemes, hosts), strict=False)
            for line in value.replace(", ", separator).split("|")
        ]
        assert client("10.0.0.1", *headers) == (*expected, True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["for=203.0.113.7;proto=https;host=app.com"], ("203.0.113.7", "https", "app.com")),
        (["For=203.0.113.7; Proto=HTTPS ;HOST=app.com;by=10.0.0.1"], ("203.0.113.7", "https", "app.com")),
        (['for="203.0.113.7:4711";host="app.com:8443"'], ("203.0.113.7", "http", "app.com:8443")),
        (['for="[2001:DB8::7]:4711"'], ("2001:db8::7", "http", "gateway:8000")),
        (['for="[2001:db8::7]"'], ("2001:db8::7", "http", "gateway:8000")),
        (
            ["for=203.0.113.7:4711;host=app.com:8443"],
            ("203.0.113.7", "http", "app.com:8443"),
        ),  # no quotes
        (['for="203.0.113.7:_port"'], ("203.0.113.7", "http", "gateway:8000")),
        (['for="\\2\\03.0.113.7"'], ("203.0.113.7", "http", "gateway:8000")),
        (["for=203.0.113.7;;proto=https;"], ("203.0.113.7", "https", "gateway:8000")),
        # Obfuscated: what else this proxy says counts, and nothing that is left of it.
        (["for=1.1.1.1;proto=ftp, for=_hidden;proto=https;host=app.com"], ("10.0.0.1", "https", "app.com")),
        (["for=unknown;proto=https"], ("10.0.0.1", "https", "gateway:8000")),
        # One by one, as long as they are trusted.
        (
            ["for=203.0.113.7;proto=https;host=app.com, for=10.0.0.2;proto=http"],
            ("203.0.113.7", "https", "app.com"),
        ),
        (["for=203.0.113.7;proto=https;host=app.com", "for=10.0.0.2"], ("203.0.113.7", "https", "app.com")),
        (["for=1.1.1.1;proto=https, for=203.0.113.7;proto=http"], ("203.0.113.7", "http", "gateway:8000")),
        (["proto=https, for=10.0.0.2"], ("10.0.0.2", "https", "gateway:8000")),
        # What a client leaves open swallows nothing of what the proxy writes.
        (['for="1.1.1.1, for=203.0.113.7;proto=https'], ("203.0.113.7", "https", "gateway:8000")),
        (['for="1.1.1.1', 'for="[2001:db8::7]";proto=https'], ("2001:db8::7", "https", "gateway:8000")),
        (['for="1.1.1.1, for="[2001:db8::7]";proto=https'], ("2001:db8::7", "https", "gateway:8000")),
        (['for="a, for=1.1.1.1", for=203.0.113.7'], ("203.0.113.7", "http", "gateway:8000")),
        # Malformed.
        (["for=1.1.1.1;for=2.2.2.2"], ("10.0.0.1", "http", "gateway:8000")),
        (["for"], ("10.0.0.1", "http", "gateway:8000")),
        (["for = 1.1.1.1"], ("10.0.0.1", "http", "gateway:8000")),
        (["host=a b;for=1.1.1.1"], ("10.0.0.1", "http", "gateway:8000")),
        (["", ",;,"], ("10.0.0.1", "http", "gateway:8000")),
    ],
)
def test_forwarded_is_read_as_the_standard_says(lines: list[str], expected: tuple[str, str, str]) -> None:
    assert client("10.0.0.1", *(("Forwarded", line) for line in lines)) == (*expected, True)


def test_forwarded_counts_only_where_none_of_the_older_headers_is() -> None:
    # A proxy that writes one kind lets the other through, from whoever sent it.
    forwarded = ("Forwarded", "for=1.1.1.1;proto=https;host=evil.com")
    assert client("10.0.0.1", ("X-Forwarded-For", "203.0.113.7"), forwarded) == (
        "203.0.113.7",
        "http",
        "gateway:8000",
        True,
    )


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
    assert client(peer, *(("X-Forwarded-Host", line) for line in lines)).host == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        (["a, b ,c"], ["a", "b", "c"]),
        (["a", "b"], ["a", "b"]),
        (["", ", ,", "a,,"], ["a"]),
        (['a="x, y", b'], ['a="x, y"', "b"]),
        (['a="x\\", y", b'], ['a="x\\", y"', "b"]),
        (['a="x\\\\", b'], ['a="x\\\\"', "b"]),
    ],
)
def test_lines_of_one_header_are_one_list(lines: list[str], expected: list[str]) -> None:
    assert listed(CIMultiDict([("Connection", line) for line in lines]), "connection") == expected


def test_a_header_that_is_no_list_has_one_line() -> None:
    headers = CIMultiDict([("Origin", "http://a.com"), ("origin", "http://a.com"), ("Host", "a.com")])
    assert only(headers, "host") == "a.com"
    assert only(headers, "cookie") is None
    with pytest.raises(InvalidArguments, match="^expected one line of Origin, got 2$"):
        only(headers, "Origin")


@pytest.mark.parametrize(
    ("host", "local", "bound", "extra", "expected"),
    [
        # Bound to loopback: who asks for another name was led here by it.
        ("evil.com:9000", "127.0.0.1", ("127.0.0.1",), (), False),
        ("evil.com", "::1", ("localhost",), (), False),
        ("localhost:9000", "127.0.0.1", ("127.0.0.1",), (), True),
        ("LOCALHOST.", "127.0.0.1", ("127.0.0.1",), (), True),
        ("app.localhost:9000", "127.0.0.1", ("127.0.0.1",), (), True),
        ("[::1]:9000", "::1", ("::1",), (), True),
        ("127.0.0.1.evil.com", "127.0.0.1", ("127.0.0.1",), (), False),
        ("localhost.evil.com", "127.0.0.1", ("127.0.0.1",), (), False),
        (None, "127.0.0.1", ("127.0.0.1",), (), False),
        # Where nobody knows what else is listened on.
        ("evil.com", "127.0.0.1", (), (), False),
        # Beyond loopback any name will do, unless some are listed.
        ("app.com", "10.0.0.5", ("10.0.0.5",), (), True),
        ("app.com", "127.0.0.1", ("0.0.0.0",), (), True),
        ("app.com", "127.0.0.1", ("::",), (), True),
        ("app.com", "10.0.0.5", ("127.0.0.1", "10.0.0.5"), (), True),
        ("app.com", "127.0.0.1", ("127.0.0.1", "10.0.0.5"), (), False),
        ("app.com", "", (), (), True),
        ("app.com.:80", "127.0.0.1", ("127.0.0.1",), ("App.com",), True),
        ("app.com", "127.0.0.1", ("127.0.0.1",), ("app.com.",), True),
        ("a.b.app.com", "127.0.0.1", ("127.0.0.1",), ("*.app.com",), True),
        ("app.com", "127.0.0.1", ("127.0.0.1",), ("*.app.com",), False),
        ("evilapp.com", "127.0.0.1", ("127.0.0.1",), ("*.app.com",), False),
        ("evil.com", "127.0.0.1", ("127.0.0.1",), ("*",), True),
        ("evil.com", "10.0.0.5", ("0.0.0.0",), ("app.com",), False),
        ("10.0.0.5:8000", "10.0.0.5", ("0.0.0.0",), ("app.com",), True),
        ("localhost", "10.0.0.5", ("0.0.0.0",), ("app.com",), True),
        ("evil.com", "", (), ("app.com",), False),
    ],
)
def test_at_loopback_a_public_listener_answers_to_names_of_loopback(
    host: str | None, local: str, bound: tuple[str, ...], extra: tuple[str, ...], expected: bool
) -> None:
    assert public_host_allowed(host, local, bound=bound, extra=extra) is expected


def test_entries_of_settings_are_told_apart_from_mistakes() -> None:
    assert all(map(is_origin, ("*", "https://app.com", "http://localhost:3000", "capacitor://localhost", "app://.")))
    assert all(map(is_origin, ("null", "file://", "file:///", "https://app.com/", "https://*.app.com:8443/")))
    assert not any(map(is_origin, ("app.com", "*.app.com", "https://app.com/a", "https://", "https:///", "", "/")))
    assert not any(map(is_origin, ("https://*", "https://*.", "https://a.*.com", "https://*app.com", "http://*.0.0.1")))
    assert all(map(is_proxy, ("10.0.0.1", "10.0.0.0/8", "10.1.2.3/8", "fd00::/8", "::1", "unix")))
    assert not any(map(is_proxy, ("proxy", "10.0.0.0/33", "10.0.0", "*", "", "UNIX", "unix:/run/x.sock")))
    assert all(map(is_host_pattern, ("app.com", "app.com.", "*.app.com", "10.0.0.1", "::1", "*")))
    assert not any(map(is_host_pattern, ("app.com:80", "https://app.com", "*app.com", "*.", "a.*.com", "*.0.0.1", "")))
    assert all(map(is_host_name, ("verani", "verani.internal", "10.0.0.1", "::1", "[::1]")))
    assert not any(map(is_host_name, ("verani:8001", "http://verani", "*", "a b", "")))
