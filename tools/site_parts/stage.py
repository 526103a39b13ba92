"""Brings the site's pages together: README, docs/ and the other documents, with their links made to fit.

The documents are written for readers of the checkout, where a link leads to any file. In the site a link leads to
a page, or to a copy of the file.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.site_parts.commands import with_commands
from tools.site_parts.library import with_library
from tools.site_parts.schemas import with_schemas

# Caption of the menu -> its pages, by their place in the checkout. A page of docs/ that is not here comes under GUIDES.
GUIDES = "Guides"
MENU: dict[str, list[str]] = {
    "Start": ["docs/install.md", "docs/answers.md"],
    "Tutorials": ["docs/tutorials/*.md"],
    GUIDES: [
        "docs/splits.md",
        "docs/tpm.md",
        "docs/multisplit.md",
        "docs/test.md",
        "docs/logs.md",
        "docs/gallery.md",
        "docs/pictures.md",
        "docs/studies.md",
        "docs/data.md",
        "docs/engine.md",
        "docs/caffe.md",
    ],
    "Reference": ["docs/commands.md", "docs/library.md", "docs/formats.md", "docs/outputs.md", "docs/stable.md"],
    "Results": ["docs/results/*.md", "docs/results/*/*.md"],
    "The project": ["CHANGELOG.md", "CONTRIBUTING.md", "docs/design.md"],
}
HOME = "README.md"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^\s*(```+|~~~+)")


class Stage:
    """Copies pages from the checkout `root` into `folder`, each once, and what they link to."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self._pages: dict[Path, str] = {}  # page in the checkout -> its place in the site
        self._left: list[Path] = []

    def all(self) -> None:
        """Stage the home page, every page of the menu and of docs/, and what they link to."""
        menu = self._menu()
        for page in [self.root / HOME, *(page for pages in menu.values() for page in pages)]:
            self._place(page)
        in_menu = set(self._pages)
        while self._left:
            page = self._left.pop()
            text = self._text(page)
            if page == self.root / HOME:
                text += self._menu_text(menu)
            elif page not in in_menu:
                text = f"---\norphan: true\n---\n\n{text}"
            target = self.folder / self._pages[page]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")

    def _menu(self) -> dict[str, list[Path]]:
        found = {
            caption: [page for pattern in patterns for page in sorted(self.root.glob(pattern))]
            for caption, patterns in MENU.items()
        }
        named = {page for pages in found.values() for page in pages}
        found[GUIDES] += [page for page in sorted((self.root / "docs").glob("*.md")) if page not in named]
        return found

    def _menu_text(self, menu: dict[str, list[Path]]) -> str:
        lines: list[str] = []
        for caption, pages in menu.items():
            names = [self._pages[page].removesuffix(".md") for page in pages]
            lines += ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"]
        return "\n".join([*lines, ""])

    def _place(self, page: Path) -> str:
        """Where a page stands in the site; it is staged if it was not."""
        if page not in self._pages:
            path = page.relative_to(self.root)
            name = "index.md" if path == Path(HOME) else path.as_posix().removeprefix("docs/")
            self._pages[page] = name
            self._left.append(page)
        return self._pages[page]

    def _text(self, page: Path) -> str:
        text = page.read_text(encoding="utf-8")
        # A page with options or signatures gets them here, made from the code.
        if page == self.root / "docs/commands.md":
            text = with_commands(text)
        elif page == self.root / "docs/library.md":
            text = with_library(text)
        elif page == self.root / "docs/outputs.md":
            text = with_schemas(text, self.root / "docs/schemas/outputs-1.json")
        here = Path(self._pages[page]).parent
        return "".join(
            part if is_code else _LINK.sub(lambda found: self._link(found, page, here), part)
            for part, is_code in _parts(text)
        )

    def _link(self, found: re.Match[str], page: Path, here: Path) -> str:
        is_picture, words, link = found.groups()
        path, hash_, anchor = link.partition("#")
        if "://" in link or not path:
            return found[0]
        target = Path(os.path.normpath(page.parent / path))
        if not target.exists():
            return found[0]  # Sphinx says so
        if target.is_dir():
            raise SystemExit(f"{page.relative_to(self.root)}: a link to the folder {path}; link to a page in it")
        if target.suffix == ".md":
            staged = self._place(target)
            if words == link:  # a file's name says less than its title
                words = _title(target)
        else:
            staged = self._copy(target)
        return f"{is_picture}[{words}]({os.path.relpath(staged, here)}{hash_}{anchor})"

    def _copy(self, target: Path) -> str:
        path = target.relative_to(self.root).as_posix()
        name = path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
        copied = self.folder / name
        if not copied.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, copied)
        return name


def _title(page: Path) -> str:
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else page.stem


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces that are code between fences or not; a link may go over the end of a line."""
    for is_code, lines in itertools.groupby(_lines(text), key=lambda line: line[1]):
        yield "".join(line for line, _ in lines), is_code


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is code between fences."""
    fence = ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        if not fence and found:
            fence = found[1]
            yield line, True
        elif fence:
            yield line, True
            if found and found[1].startswith(fence) and line.strip() == found[1]:
                fence = ""
        else:
            yield line, False
