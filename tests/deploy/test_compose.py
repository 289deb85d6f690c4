"""The machines of the compose file can reach each other, and nobody else reaches what is theirs."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.deploy.files import compose

MACHINES = ("leader", "host", "gateway")


def address(service: dict[str, Any]) -> str:
    return str(service["networks"]["cluster"]["ipv4_address"])


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_advertises_its_own_address_in_the_private_network(name: str) -> None:
    service = compose()["services"][name]
    network = compose()["networks"]["cluster"]
    assert network["internal"]
    assert ip_address(address(service)) in ip_network(network["ipam"]["config"][0]["subnet"])
    assert service["environment"]["VERANI_ADVERTISE"] == address(service)


def test_the_others_join_the_leader() -> None:
    services = compose()["services"]
    assert services["leader"]["command"][0] == "serve"
    for name in ("host", "gateway"):
        assert services[name]["command"][:2] == ["join", address(services["leader"])]


def test_machines_have_names_of_their_own() -> None:
    assert len({compose()["services"][name]["hostname"] for name in MACHINES}) == len(MACHINES)


def test_every_secret_that_is_read_is_there() -> None:
    for name in MACHINES:
        service = compose()["services"][name]
        read = {value for variable, value in service["environment"].items() if variable.endswith("_FILE")}
        assert read == {f"/run/secrets/{secret}" for secret in service["secrets"]}
        assert set(service["secrets"]) <= set(compose()["secrets"])
    # deploy/.gitignore keeps what is in that folder out of commits.
    assert {PurePosixPath(each["file"]).parts[0] for each in compose()["secrets"].values()} == {"secrets"}


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_machines_have_no_rights_that_they_do_not_need() -> None:
    for name in MACHINES:
        service = compose()["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
