"""Read the files of deploy/ as the programs that they are for do, and run the checkers of those programs."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec

__all__ = ["DEPLOY", "ROOT", "STOP_GRACE", "Tool", "changed", "check", "compose", "environments", "objects", "pods"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

# What processes get beyond `drain_seconds` before they are killed: verani_gateway.service.supervisor.
STOP_GRACE = 12.0


class Tool(Protocol):
    """The fixture `tool`."""

    def __call__(self, name: str, *, package: str) -> str: ...


def check(*command: str | Path) -> str:
    """Run a checker; return what it printed, and fail with that where it finds something."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def changed(path: Path, changes: dict[str, str]) -> str:
    """Read a file with some of its texts replaced, all of which must be there."""
    text = path.read_text()
    for old, new in changes.items():
        assert old in text, f"{path.name}: {old}"
        text = text.replace(old, new)
    return text


@cache
def compose() -> dict[str, Any]:
    """Parse the compose file strictly: what the Compose Specification does not know is an error."""
    import compose_spec  # takes a third of a second, which every worker would wait for

    parsed = compose_spec.PyOptions(apply_merge=True).from_yaml((DEPLOY / "compose.yaml").read_text())
    parsed.validate()
    content: dict[str, Any] = msgspec.json.decode(parsed.to_json())
    return content


def objects() -> list[dict[str, Any]]:
    """Parse all Kubernetes objects."""
    texts = [path.read_text() for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))]
    return [msgspec.yaml.decode(part) for text in texts for part in text.split("\n---\n")]


def pods() -> dict[str, dict[str, Any]]:
    """Give the pod templates, by the name of the object that makes pods of them."""
    return {each["metadata"]["name"]: each["spec"]["template"] for each in objects() if "template" in each["spec"]}


def environments() -> dict[str, dict[str, str]]:
    """Give the environment of every container that runs Verani; an address stands for what only a cluster knows."""
    services = compose()["services"]
    found = {name: service["environment"] for name, service in services.items() if name != "prometheus"}
    for name, pod in pods().items():
        variables = pod["spec"]["containers"][0]["env"]
        found[name] = {each["name"]: each.get("value", "10.1.2.3") for each in variables}
    return found
