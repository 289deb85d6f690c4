"""Hold the packages to their size: one noun a class and a file, and a name that exists once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGES: Final = ("verani", "actors/verani_actors", "gateway/verani_gateway")

MAX_LINES: Final = 400
MAX_METHODS: Final = 25
MAX_ATTRIBUTES: Final = 18

# What people use is of one piece for them, and a table of settings has as many as there are.
FACES: Final = {"Actor", "Gateway", "RoomDefinition", "RoomOptions", "Settings", "VeraniClient"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted(Path(package).rglob("*.py"))


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for module in modules():
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef):
                yield module, node


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]


def attributes_of(node: ast.ClassDef) -> set[str]:
    declared = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    begin = [method for method in methods_of(node) if method.name == "__init__"]
    return declared | {
        each.attr
        for method in begin
        for each in ast.walk(method)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }


@pytest.mark.parametrize("module", list(modules()), ids=str)
def test_a_module_is_short_enough_to_be_read(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= MAX_LINES


def test_a_class_is_one_noun() -> None:
    large = {
        f"{module}: {node.name}": (len(methods_of(node)), len(attributes_of(node)))
        for module, node in classes()
        if node.name not in FACES and (len(methods_of(node)) > MAX_METHODS or len(attributes_of(node)) > MAX_ATTRIBUTES)
    }
    assert large == {}


def test_a_class_has_a_name_of_its_own() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for module, node in classes():
        found[node.name].append(str(module))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
