"""Headers that are lists, and those that are not."""

import pytest
from multidict import CIMultiDict

from verani.errors import InvalidArguments
from verani_gateway.http.headers import listed, only


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
