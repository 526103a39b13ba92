"""The page of the library: signatures and docstrings of all public names, read from the code when the site is built."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import caffe_split

_MARK = re.compile(r"^<!-- api: (.+) -->$", re.MULTILINE)


def with_library(text: str) -> str:
    """The page with what the code says of each name in its marks `<!-- api: a, b -->`; names in none come last."""
    marked = [name.strip() for names in _MARK.findall(text) for name in names.split(",")]
    unknown = [name for name in marked if name not in caffe_split.__all__]
    if unknown:
        raise SystemExit(f"docs/library.md describes {', '.join(unknown)}: there is no such public name")
    left = [name for name in caffe_split.__all__ if name not in marked]
    if left:
        text = f"{text.rstrip()}\n\n## More\n\n<!-- api: {', '.join(left)} -->\n"
    undocumented = missing_words(caffe_split)
    if undocumented:
        raise SystemExit("public names without a description:\n" + "\n".join(undocumented))
    return _MARK.sub(lambda found: "\n\n".join(_entry(name.strip()) for name in found[1].split(",")), text)


def _entry(name: str) -> str:
    public = getattr(caffe_split, name)
    if inspect.ismodule(public):
        return f"```{{eval-rst}}\n.. automodule:: caffe_split.{name}\n```"
    kind = "autoclass" if inspect.isclass(public) else "autofunction"
    options = "" if kind == "autofunction" else _members(public)
    return f"### `{name}`\n\n```{{eval-rst}}\n.. {kind}:: caffe_split.{name}\n{options}```"


def _members(public: type) -> str:
    if issubclass(public, Exception):
        return ""
    # Fields are in the signature and in the docstring.
    names = [name for name, value in vars(public).items() if name[0] != "_" and _is_described(value)]
    return f"   :members: {', '.join(names)}\n" if names else ""


def _is_described(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))


def missing_words(module: ModuleType) -> list[str]:
    """What is public in a module (its `__all__`) and not described.

    A name needs a docstring, a function's docstring or a dataclass's names each parameter or field, and each public
    method and property has a docstring.
    """
    missing = []
    for name in module.__all__:
        public = getattr(module, name)
        words = inspect.getdoc(public) or ""
        if not words:
            missing.append(name)
        if inspect.isfunction(public):
            missing += [f"{name}({each})" for each in inspect.signature(public).parameters if not _named(each, words)]
        elif inspect.isclass(public):
            fields = getattr(public, "__dataclass_fields__", {})
            missing += [f"{name}.{each}" for each in fields if each[0] != "_" and not _named(each, words)]
            missing += [
                f"{name}.{each}()"
                for each, value in vars(public).items()
                if each[0] != "_" and _is_described(value) and not inspect.getdoc(value)
            ]
    return missing


def _named(name: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", words) is not None
