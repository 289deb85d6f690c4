"""What cannot work is refused in one sentence, before anything starts."""

from __future__ import annotations

import pytest

from verani import Settings, SettingsError
from verani_gateway.config import Secrets
from verani_gateway.service.shape import check_shape, leader_address

SECRET = "0123456789abcdef"


def test_machines_need_one_secret_and_an_address_that_others_reach() -> None:
    loopback, reachable = Settings(hosts=1), Settings(hosts=1, advertise="10.0.0.1")
    check_shape(loopback, Secrets(), leader="")
    check_shape(reachable, Secrets(cluster_secret=SECRET), leader="")
    check_shape(reachable, Secrets(cluster_secret=SECRET), leader="10.0.0.2:8100")
    check_shape(Settings(advertise="10.0.0.1"), Secrets(cluster_secret=SECRET), leader="10.0.0.2:8100")
    with pytest.raises(SettingsError, match="expected VERANI_CLUSTER_SECRET to be set"):
        check_shape(reachable, Secrets(), leader="")
    with pytest.raises(SettingsError, match="expected --advertise with an address"):
        check_shape(loopback, Secrets(cluster_secret=SECRET), leader="10.0.0.2:8100")
    with pytest.raises(SettingsError, match="got 0 of both"):
        check_shape(Settings(gateways=0), Secrets(cluster_secret=SECRET), leader="10.0.0.2:8100")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1:8100"),
        ("leader.internal:9000", "leader.internal:9000"),
        ("[fd00::1]", "[fd00::1]:8100"),
        ("[fd00::1]:9000", "[fd00::1]:9000"),
    ],
)
def test_a_leader_has_a_default_port(text: str, expected: str) -> None:
    assert leader_address(text) == expected


@pytest.mark.parametrize("text", ["", ":8100", "leader:", "leader:0", "leader:65536", "leader:x", "fd00::1"])
def test_what_is_no_leader_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected the leader as HOST or HOST:PORT"):
        leader_address(text)
