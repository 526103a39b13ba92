"""HTML as text in which everything that is not markup is escaped by construction."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Union

from caffe_split import jsontext

# Elements without an end tag.
_VOID = {"br", "input"}


class Html(str):
    """Text that is already markup."""


Content = Union[str, Html, Sequence["Content"]]


def element(name: str, *content: Content, **attributes: object) -> Html:
    """`<name attributes>content</name>`; content and attributes are escaped unless they are `Html`.

    An attribute whose name is a keyword of Python ends in an underscore (`class_`); an underscore inside a name stands
    for a hyphen (`aria_label`). None leaves the attribute out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    inside = _text(content)
    return Html(start if name in _VOID else f"{start}{inside}</{name}>")


def _text(content: Content) -> str:
    if isinstance(content, Html):
        return str(content)
    if isinstance(content, str):
        return html.escape(content)
    return "".join(map(_text, content))


def data_block(identifier: str, value: object) -> Html:
    """A block of JSON for the page's script; no text in it can end the block."""
    text = json.dumps(jsontext.finite(value), separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')
