"""What `mkdocs build` does beyond its settings: what pages link to outside `docs/` becomes part of the site.

Pages link as forges want it, `../examples/chat.py`, and MkDocs knows nothing above `docs/`. So documents there become
pages under their own path, other files pages that show their code, and a link to a folder is text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
# The first page of the site stands for the README of the repository: the site is for those who found it.
SAME = {"README.md": "docs/index.md"}

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^):#\s]+)(?P<anchor>#[^)\s]*)?\)")

# Pages that were made here, by their path in the site: the path of their source in the repository.
_sources: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside `docs/`, and what that links to in turn."""
    _sources.clear()
    waiting = [(DOCS + file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        source, text = waiting.pop()
        for target in _targets(source, text):
            place = _place(target)
            if target.startswith(DOCS) or place in _sources or not (ROOT / target).is_file():
                continue
            content = _content(target)
            _sources[place] = target
            files.append(File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
            if target.endswith(".md"):
                waiting.append((target, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to the place in the site."""
    here = page.file.src_uri
    source = _sources.get(here, DOCS + here)

    def lead(link: re.Match[str]) -> str:
        target = _resolve(source, link["path"])
        if (ROOT / target).is_dir():
            return link["text"]
        path = posixpath.relpath(_place(target), posixpath.dirname(here))
        return f"{link['image']}[{link['text']}]({path}{link['anchor'] or ''})"

    return _outside_fences(markdown, lambda text: _LINK.sub(lead, text))


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Change all of a page but its code."""
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _targets(source: str, text: str) -> list[str]:
    return [_resolve(source, link["path"]) for link in _LINK.finditer(_FENCE.sub("", text))]


def _resolve(source: str, path: str) -> str:
    """Give the path in the repository of what a file links to."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    return SAME.get(target, target)


def _place(target: str) -> str:
    """Give the path in the site of a file of the repository."""
    if target.startswith(DOCS):
        return target.removeprefix(DOCS)
    return target if target.endswith(".md") or _is_image(target) else f"{target}.md"


def _is_image(target: str) -> bool:
    return target.endswith((".png", ".svg"))


def _content(target: str) -> str | bytes:
    if _is_image(target):
        return (ROOT / target).read_bytes()
    text = (ROOT / target).read_text()
    if target.endswith(".md"):
        return text
    kind = Path(target).suffix.removeprefix(".")
    return f"# {target}\n\n```{kind}\n{text}```\n"
