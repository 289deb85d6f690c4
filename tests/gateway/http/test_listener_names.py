"""What a listener is called, and what may stand in settings, as tables."""

import pytest

from verani_gateway.http.listener_names import host_allowed, is_host_name, is_host_pattern, public_host_allowed
from verani_gateway.http.origins import is_origin
from verani_gateway.http.proxies import is_proxy


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
