"""How a file is written: its style (indents, braces, colons, newlines, quotes), and edits of the gaps between fields.

A gap is the whitespace and the comments between two fields. The functions take and return strings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_BLANK_LINE = re.compile(r"\A[ \t]*\r?\n[ \t]*\r?\n")


@dataclass(frozen=True)
class Style:
    """How a file is written: a step of indent, the gap before `{`, the colon, the newline, the quote."""

    indent: str = "  "
    brace: str = " "
    colon: str = ": "
    newline: str = "\n"
    quote: str = '"'


@dataclass(frozen=True)
class Sample:
    """What one field shows of a file's style; `outer` is the indent of the message around it."""

    lead: str
    sep: str
    is_message: bool
    raw: str
    outer: str


def newline_of(text: str) -> str:
    """The newline in which most lines of a whole text end, those within values and at the end too."""
    windows = text.count("\r\n")
    return "\r\n" if windows > text.count("\n") - windows else "\n"


def style_of(samples: Iterable[Sample]) -> Style:
    """The style that most samples show; the default where none shows it."""
    default = Style()
    indents: Counter[str] = Counter()
    braces: Counter[str] = Counter()
    colons: Counter[str] = Counter()
    quotes: Counter[str] = Counter()
    newlines: Counter[str] = Counter()
    for sample in samples:
        if "\n" in sample.lead:
            newlines["\r\n" if "\r\n" in sample.lead else "\n"] += 1
            indent = line_indent(sample.lead)
            if indent.startswith(sample.outer) and len(indent) > len(sample.outer):
                indents[indent[len(sample.outer) :]] += 1
        if "#" not in sample.sep and "\n" not in sample.sep:
            (braces if sample.is_message else colons)[sample.sep] += 1
        if sample.raw[:1] in ("'", '"'):
            quotes[sample.raw[0]] += 1

    def most(counter: Counter[str], otherwise: str) -> str:
        return counter.most_common(1)[0][0] if counter else otherwise

    return Style(
        most(indents, default.indent),
        most(braces, default.brace),
        most(colons, default.colon),
        most(newlines, default.newline),
        most(quotes, default.quote),
    )


def line_indent(gap: str) -> str:
    """The whitespace at the start of the line that a gap ends in."""
    return gap[gap.rfind("\n") + 1 :].lstrip("\ufeff")


def split_line(gap: str) -> tuple[str, str]:
    """A gap cut at the end of its first line: what stands on the line of the field before, and the rest.

    The rest begins with the newline, or is empty when the gap has none.
    """
    end = gap.find("\n")
    if end < 0:
        return gap, ""
    if end and gap[end - 1] == "\r":
        end -= 1
    return gap[:end], gap[end:]


def split_own_comments(lead: str) -> tuple[str, str]:
    """A field's lead cut before the comment lines that touch the field from above.

    The second part begins with a newline if the first is not empty; it is only the last newline and the
    indent when no comment touches the field.
    """
    cut = lead.rfind("\n")
    while cut > 0:
        start = lead.rfind("\n", 0, cut)
        line = lead[start + 1 : cut].strip()
        if not line.startswith("#") or start < 0:
            break
        cut = start
    if cut > 0 and lead[cut - 1] == "\r":
        cut -= 1
    return (lead[:cut], lead[cut:]) if cut >= 0 else ("", lead)


def begins_line(lead: str, first_of_file: bool) -> bool:
    """Whether a field with this lead is the first thing on its line."""
    return "\n" in lead or (first_of_file and not lead.strip("\ufeff \t"))


def has_blank_line(lead: str) -> bool:
    """Whether a blank line follows the field before; one after comment lines does not count."""
    return bool(_BLANK_LINE.match(split_line(lead)[1]))


def cut_field(lead: str, after: str, first_of_file: bool, last_of_file: bool) -> str:
    """The gap that remains when the field between two gaps goes.

    A field alone on its lines takes them along, and a comment at the end of its last line too. Comment
    lines above it stay: they may be about more than the field.
    """
    rest = split_line(after)[1]
    alone_after = bool(rest) or last_of_file
    if begins_line(lead, first_of_file):
        if not alone_after:
            return lead + after.lstrip()
        cut = lead.rfind("\n")
        if cut < 0:
            bom = "\ufeff" if lead.startswith("\ufeff") else ""
            return bom + re.sub(r"\A\r?\n", "", rest)
        if cut and lead[cut - 1] == "\r":
            cut -= 1
        return lead[:cut] + rest
    # It shares its line with the field before (and maybe the one after): keep one of the two gaps.
    return after if after else lead


def without_blank_lines(gap: str) -> str:
    """A gap of whitespace without the empty lines in it: what is on the line before, the last newline, what follows."""
    head, rest = split_line(gap)
    cut = rest.rfind("\n")
    if cut > 0 and rest[cut - 1] == "\r":
        cut -= 1
    return head + rest[max(cut, 0) :]


def reindent(text: str, old: str, new: str) -> str:
    """A gap moved from one depth to another: each of its lines that begins with `old` begins with `new`."""
    if old == new:
        return text
    # A blank line has no indent to change.
    return re.sub(rf"\n{re.escape(old)}(?![\r\n])", lambda _: "\n" + new, text)


_COMMENT = re.compile(r"#[^\r\n]*")


def comments_of(gap: str) -> list[str]:
    """The comments in a gap, each with its `#`."""
    return _COMMENT.findall(gap)


def comment_behind(after: str) -> list[str]:
    """The comment on the last line of the field before a gap: none or one."""
    return comments_of(split_line(after)[0])


def add_comments(gap: str, comments: list[str], style: Style, indent: str | None = None) -> str:
    """A gap with comments added on lines of their own before the line it ends in."""
    if not comments:
        return gap
    indent = line_indent(gap) if indent is None else indent
    own = "".join(f"{style.newline}{indent}{comment}" for comment in comments)
    cut = gap.rfind("\n")
    if cut > 0 and gap[cut - 1] == "\r":
        cut -= 1
    return gap[:cut] + own + gap[cut:] if cut >= 0 else own + style.newline + indent
