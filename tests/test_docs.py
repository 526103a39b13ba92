"""What the documents say can be done: every command is in the README, and every command line in a document parses."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from caffe_split.cli import COMMANDS, cli
from tests.support import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = re.compile(r"^\s*(?:\$ )?(caffe-split (?!\d)[^`\n]*)$|`(caffe-split (?!\d)[^`\n]+)`", re.MULTILINE)


def written_commands(text: str) -> list[str]:
    """Command lines on a line of their own or in backquotes; placeholders and prose that only names a command apart."""
    lines = [(own or quoted).split(" #")[0].strip() for own, quoted in WRITTEN.findall(text)]
    return [line for line in lines if "..." not in line]


def parse(line: str) -> None:
    """Parse a command line as the program would, running nothing. Raises click's errors."""
    words = shlex.split(line)[1:]
    for end in ("|", ">", ">>", "2>&1", "&&"):
        words = words[: words.index(end)] if end in words else words
    context = cli.make_context("caffe-split", words[:0], resilient_parsing=True)
    command = cli.get_command(context, words[0])
    assert command is not None, f"no command {words[0]}"
    while isinstance(command, click.Group):
        words = words[1:]
        command = command.get_command(context, words[0])
        assert command is not None, f"no command {words[0]}"
    command.make_context(words[0], words[1:], parent=context)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_in_documents_are_understood(document: Path) -> None:
    for line in written_commands(document.read_text(encoding="utf-8")):
        if len(line.split()) == 2:  # `caffe-split tpm` in prose
            assert line.split()[1] in COMMANDS, line
            continue
        try:
            parse(line)
        except click.UsageError as error:
            if "does not exist" in error.format_message():
                continue  # a file of the reader's
            pytest.fail(f"{document.name}: {line}: {error.format_message()}")


def test_a_wrong_command_line_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        parse("caffe-split make-derived net.prototxt --number-of-splits 9")
    assert written_commands("Do:\n\n    caffe-split best a.log\n\nand `caffe-split table b.log --csv d`.") == [
        "caffe-split best a.log",
        "caffe-split table b.log --csv d",
    ]


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if not re.search(rf"`(caffe-split )?{re.escape(name)}\b", text)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"


def test_each_extra_is_described_where_it_is_installed() -> None:
    """Except those for developers, which ./tools/environment installs."""
    given = re.search(r"extras_require=(\{.*?\n    \})", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert given is not None
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    table = page.partition("## Extras")[2].partition("\n## ")[0]
    described = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(described) == sorted(set(ast.literal_eval(given[1])) - {"test"})
