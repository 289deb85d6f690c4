"""Where a request came from, as tables: what proxies say, and what of it counts."""

import pytest
from multidict import CIMultiDict

from verani_gateway.http.proxies import FORWARDING, UNIX, Client, client_of

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
