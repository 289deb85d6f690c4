"""What deploy/ says of settings, options, ports and times is what Verani has."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.files import DEPLOY, STOP_GRACE, compose, environments, pods
from verani.settings import Settings
from verani_actors.upkeep.runtime import DEFAULT_ADMIN_PORT
from verani_gateway.cli.main import main
from verani_gateway.config import SETTINGS, load, unknown_variables
from verani_gateway.http.host_port import is_loopback
from verani_gateway.service.sockets import internal_port

if TYPE_CHECKING:
    pass

DEFAULTS = Settings()
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "secrets" not in path.parts)
FILES = [path for path in FILES if path.suffix != ".pyc"]

# Gateways stop first, then the room hosts.
STOP = 2 * (DEFAULTS.drain_seconds + STOP_GRACE)


def named(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_variable_is_one_that_verani_knows(path: Path) -> None:
    variables = dict.fromkeys(re.findall(r"\bVERANI_[A-Z_]*[A-Z]\b", path.read_text()), "")
    variables.pop("VERANI_TEST_TOOLS", None)  # what these tests themselves read
    assert unknown_variables(variables) == ()


def commands_in(path: Path) -> list[tuple[str, set[str]]]:
    """Find the command lines of `verani` in a file: the command and the options of each."""
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(r"\bverani (serve|join|drain|cluster|rooms|call)\b([^`\n;#]*)", text)
    return [(command, set(re.findall(r"(?<!\S)(--[a-z-]+)", rest))) for command, rest in lines]


COMMANDS = sorted({(command, option) for path in FILES for command, all_ in commands_in(path) for option in all_})


@pytest.mark.parametrize(("command", "option"), COMMANDS)
def test_every_option_is_one_that_the_command_has(
    capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    if f"    {command} " not in capsys.readouterr().out:
        pytest.skip(f"verani has no command {command} yet")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert re.search(rf"{option}\b", capsys.readouterr().out)


@pytest.mark.parametrize("name", environments())
def test_the_environment_of_every_container_is_valid(name: str) -> None:
    environment = environments()[name]
    settings = load({}, {variable: value for variable, value in environment.items() if not variable.endswith("_FILE")})
    # More than one machine: a shared secret, and an address that others reach.
    assert "VERANI_CLUSTER_SECRET_FILE" in environment
    assert not is_loopback(settings.advertise)
    assert settings.hosts + settings.gateways > 0
    # Beyond loopback it would not start without both.
    if not all(map(is_loopback, settings.internal_addresses)):
        assert {"VERANI_RPC_TOKEN_FILE", "VERANI_ADMIN_TOKEN_FILE"} <= set(environment)


def test_the_settings_file_is_valid() -> None:
    file = DEPLOY / "systemd" / "verani.toml"
    assert load({}, {}, config=str(file)).hosts == 2
    commented = file.read_text().replace("# advertise", "advertise")
    assert tomllib.loads(commented).keys() <= SETTINGS.keys()


def test_the_health_check_has_the_defaults_of_the_settings() -> None:
    defaults: dict[str, str] = runpy.run_path(str(DEPLOY / "healthcheck.py"))["DEFAULTS"]
    assert load({}, defaults) == DEFAULTS


def test_the_ports_are_those_of_the_settings() -> None:
    public, internal = DEFAULTS.port, internal_port(DEFAULTS)
    assert f"EXPOSE {public}\n" in (DEPLOY / "Dockerfile").read_text()
    assert compose()["services"]["gateway"]["ports"] == [f"127.0.0.1:{public}:{public}"]
    for file in ("nginx/verani.conf", "caddy/Caddyfile"):
        # Without comments: the public listener and nothing else.
        lines = [line for line in (DEPLOY / file).read_text().splitlines() if not line.strip().startswith("#")]
        assert {int(port) for line in lines for port in re.findall(r"127\.0\.0\.1:(\d+)", line)} == {public}
    ports: dict[str, dict[str, int]] = {
        name: {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
        for name, pod in pods().items()
    }
    assert ports == {
        "verani-gateways": {"public": public, "internal": internal},
        "verani-hosts": {"admin": DEFAULT_ADMIN_PORT, "links": DEFAULTS.link_port},
    }


def test_containers_and_units_may_stop_for_longer_than_a_drain_takes() -> None:
    from compose_spec import parse_duration

    for name in environments().keys() - pods().keys():
        assert parse_duration(compose()["services"][name]["stop_grace_period"]) > STOP
    for unit in (DEPLOY / "systemd").glob("*.service"):
        found = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
        assert found
        assert float(found[1]) > STOP


@pytest.mark.parametrize("name", pods())
def test_pods_may_stop_for_longer_than_what_comes_before_and_a_drain_take(name: str) -> None:
    spec: dict[str, Any] = pods()[name]["spec"]
    command: list[str] = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    match command:
        case ["sleep", duration]:
            before = float(duration)
        case ["sh", "-c", script]:
            found = re.search(r"for number in ([\d ]+);.*timeout (\d+) verani drain", script, re.DOTALL)
            assert found
            hosts = found[1].split()
            # Every room host is drained, one after the other.
            assert hosts == [str(number) for number in range(int(environments()[name]["VERANI_HOSTS"]))]
            before = len(hosts) * float(found[2])
        case _:
            raise AssertionError(command)
    assert spec["terminationGracePeriodSeconds"] > before + STOP


def test_proxies_wait_for_longer_than_verani_needs_to_find_a_dead_peer() -> None:
    text = (DEPLOY / "nginx" / "verani.conf").read_text()
    waits = re.findall(r"proxy_(?:read|send)_timeout (\d+)s;", text)
    assert len(waits) == 2
    assert all(float(each) > DEFAULTS.ping_interval + DEFAULTS.pong_timeout for each in waits)


def test_proxies_give_up_idle_connections_before_verani_closes_them() -> None:
    for file in ("nginx/verani.conf", "caddy/Caddyfile"):
        found = re.search(r"^\s*keepalive(?:_timeout)? (\d+)s;?$", (DEPLOY / file).read_text(), re.MULTILINE)
        assert found, file
        assert float(found[1]) < DEFAULTS.header_timeout


def test_prometheus_scrapes_the_internal_listener() -> None:
    gateway = environments()["gateway"]
    targets = f'["{gateway["VERANI_INTERNAL_HOST"]}:{internal_port(DEFAULTS)}"]'
    assert f"targets: {targets}" in (DEPLOY / "prometheus" / "prometheus.yml").read_text()
