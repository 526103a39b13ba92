"""The page of JSON outputs: tables of keys, types and meanings, made from the schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_MARK = re.compile(r"^<!-- schema: (\w+) -->$", re.MULTILINE)


def with_schemas(text: str, schemas: Path) -> str:
    """The page with a table for each mark `<!-- schema: NAME -->`, and below it those of the objects within."""
    kinds: dict[str, Any] = json.loads(schemas.read_text(encoding="utf-8"))["$defs"]
    shown: set[str] = set()
    text = _MARK.sub(lambda found: _tables(found[1], kinds, shown), text)
    left = sorted(set(kinds) - shown)
    if left:
        raise SystemExit(f"{schemas.name} has schemas that docs/outputs.md does not show: {', '.join(left)}")
    return text


def _tables(name: str, kinds: dict[str, Any], shown: set[str]) -> str:
    """The table of a kind and of those that it names, each once on the page."""
    if name in shown:
        return ""
    shown.add(name)
    kind = kinds[name]
    parts = []
    if "properties" not in kind:
        parts.append(f"{kind['description'].capitalize()}: {_type(kind)}.")
    else:
        rows = [
            f"| `{key}` | {_type(each)} | {_words(each.get('description', ''))} |"
            for key, each in kind["properties"].items()
        ]
        head = kind.get("description") or f"A {name.replace('_', ' ')}"
        parts.append(
            "\n".join([f"**`{name}`** {_words(head)}", "", "| key | type | meaning |", "| --- | --- | --- |", *rows])
        )
    parts += [_tables(each, kinds, shown) for each in re.findall(r'"#/\$defs/(\w+)"', json.dumps(kind))]
    return "\n\n".join(filter(None, parts))


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        return f"`{kind['$ref'].rpartition('/')[2]}`"
    if "anyOf" in kind:
        return " or ".join(map(_type, kind["anyOf"]))
    names = kind.get("type", "any")
    if isinstance(names, list):
        return " or ".join(names)
    if names == "array":
        return f"list of {_type(kind.get('items', {}))}"
    if names == "object" and "additionalProperties" in kind:
        return f"map to {_type(kind['additionalProperties'])}"
    return str(names)


def _words(text: str) -> str:
    return text.replace("|", "\\|")
