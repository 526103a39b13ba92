"""Python in the pages, held against the library: each block parses, each call of a public name fits its signature."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import caffe_split

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMES = ("cs", "caffe_split")


def wrong_examples(root: Path) -> list[str]:
    """What is wrong in the Python blocks of a checkout's documents, each with its file and line."""
    pages = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    return [problem for page in pages for problem in _wrong(page.relative_to(root), page.read_text(encoding="utf-8"))]


def _wrong(page: Path, text: str) -> Iterator[str]:
    for found in _BLOCK.finditer(text):
        first = text.count("\n", 0, found.start(1))
        try:
            tree = ast.parse(found[1])
        except SyntaxError as error:
            yield f"{page}:{first + (error.lineno or 1)}: this is no Python: {error.msg}"
            continue
        for node in ast.walk(tree):
            why = _unknown(node) or (_misfit(node) if isinstance(node, ast.Call) else "")
            if why:
                yield f"{page}:{first + node.lineno}: {why}"


def _public_name(node: ast.AST) -> str:
    """NAME where the node is `caffe_split.NAME` or `cs.NAME`, else empty."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _NAMES:
        return node.attr
    return ""


def _unknown(node: ast.AST) -> str:
    name = _public_name(node)
    return f"caffe_split has no {name}" if name and not hasattr(caffe_split, name) else ""


def _misfit(call: ast.Call) -> str:
    """Why a call of a public name does not fit its signature; empty where it does, or is another call."""
    name = _public_name(call.func)
    public = getattr(caffe_split, name, None) if name else None
    if public is None or any(isinstance(each, ast.Starred) for each in call.args):
        return ""
    given = {word.arg: None for word in call.keywords if word.arg is not None}
    try:
        inspect.signature(public).bind(*call.args, **given)
    except TypeError as error:
        return f"{name}{inspect.signature(public)}: {error}"
    return ""
