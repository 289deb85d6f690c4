"""Whose pages may reach a service, as a table."""

import pytest

from verani_gateway.http.origins import origin_allowed


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
