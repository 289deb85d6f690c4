"""The folder of the client for browsers as a package for npm."""

from __future__ import annotations

import asyncio
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.node_packages import node, node_package
from verani.version import __version__

ROOT: Final = Path(__file__).parents[3]
BROWSER: Final = ROOT / "gateway/verani_gateway/browser"


async def run(*command: str, cwd: Path) -> str:
    """Run a command that has to succeed; return what it has written."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def install(folder: Path) -> Path:
    """Pack the folder, unpack it where an application has its packages, and return the application's folder."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    packed = json.loads(await run(npm, "pack", "--json", "--pack-destination", str(folder), cwd=BROWSER))[0]
    modules = folder / "node_modules"
    modules.mkdir()
    with tarfile.open(folder / packed["filename"]) as archive:
        archive.extractall(modules, filter="data")
    (modules / "package").rename(modules / packed["name"])
    return folder


async def test_it_is_packed_installed_and_imported_by_its_name(tmp_path: Path) -> None:
    application = await install(tmp_path)
    packed = sorted(each.name for each in (application / "node_modules/verani-client").iterdir())
    assert packed == ["LICENSE", "README.md", "package.json", "verani.d.ts", "verani.js"]
    (application / "main.mjs").write_text(
        'import { VeraniClient, VeraniError } from "verani-client";\n'
        'console.log(VeraniClient.name, new VeraniError("busy", "no").code);\n'
    )
    assert await run(node(), "main.mjs", cwd=application) == "VeraniClient busy\n"


async def test_typescript_finds_its_types(tmp_path: Path) -> None:
    application = await install(tmp_path)
    (application / "main.mts").write_text(
        'import { VeraniClient } from "verani-client";\n'
        'export const state: string = new VeraniClient("ws://localhost/").getState();\n'
    )
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "main.mts"]
    await run(node(), str(node_package(".bin/tsc")), *options, cwd=application)


def test_it_has_the_version_and_the_licence_of_the_service() -> None:
    package: dict[str, Any] = json.loads((BROWSER / "package.json").read_text())
    assert package["version"] == __version__
    assert (BROWSER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "dependencies" not in package


async def test_what_the_types_export_is_there(tmp_path: Path) -> None:
    exported = [line.split()[2].partition("<")[0] for line in _lines() if line.startswith("export class")]
    program = f'console.log(Object.keys(await import("{(BROWSER / "verani.js").as_uri()}")).join())'
    assert await run(node(), "--input-type=module", "-e", program, cwd=tmp_path) == ",".join(sorted(exported)) + "\n"


async def test_every_method_of_the_types_is_there_and_no_other(tmp_path: Path) -> None:
    lines = _lines()
    start = next(n for n, line in enumerate(lines) if line.startswith("export class VeraniClient"))
    members = {
        line.strip().removeprefix("readonly ").partition("(")[0].partition("<")[0].partition(":")[0]
        for line in lines[start + 1 :]
        if line.startswith("  ") and line[2].isalpha()
    }
    program = (
        f'const {{ VeraniClient }} = await import("{(BROWSER / "verani.js").as_uri()}");'
        "console.log(Object.getOwnPropertyNames(VeraniClient.prototype).join())"
    )
    found = await run(node(), "--input-type=module", "-e", program, cwd=tmp_path)
    assert set(found.strip().split(",")) == members


def _lines() -> list[str]:
    return (BROWSER / "verani.d.ts").read_text().splitlines()
