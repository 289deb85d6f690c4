"""The pictures in the documents are there, and load at once."""

from __future__ import annotations

from tests.screenshots import CHAT, IMAGES, INSPECTOR, MAX_BYTES


def test_every_picture_is_there_and_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in IMAGES.iterdir()}
    assert sizes.keys() >= CHAT.keys() | INSPECTOR.keys()
    assert {name: size for name, size in sizes.items() if size >= MAX_BYTES} == {}
