"""The site: it is built strictly, and what is wrong in a page, a name or an example stops it."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

import caffe_split
from caffe_split.cli import COMMANDS
from tests.support import ROOT
from tools.site_parts.commands import undescribed, with_commands
from tools.site_parts.examples import wrong_examples
from tools.site_parts.library import missing_words, with_library


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of Sphinx's parts among themselves
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="no Sphinx: ./tools/environment --tests")
def test_a_site_is_built_only_without_a_broken_link(tmp_path: Path) -> None:
    """A link to a page, to a file beside it and to a heading; then each of them broken."""
    from tools.site_parts.build import build

    root, out = tmp_path / "root", tmp_path / "site"
    (root / "docs").mkdir(parents=True)
    (root / "docs/other.md").write_text("# Other\n\n## There\n\n[back](../README.md) [file](../a.txt)\n")
    (root / "a.txt").write_text("text")
    (root / "README.md").write_text("# Home\n\n[docs/other.md](docs/other.md) [there,\nand on](docs/other.md#there)\n")
    assert build(root, out) == ""
    page = (out / "index.html").read_text()
    assert re.search(r'href="other.html">(<[^>]*>)*Other<', page), "a file's name as a link's text becomes its title"
    assert (out / "search.html").exists() and len(list(out.rglob("a.txt"))) == 1
    (root / "README.md").write_text("# Home\n\n[a](docs/nowhere.md) [there](docs/other.md#not-there)\n")
    said = build(root, out)
    assert "index.md:3: WARNING: " in said and "nowhere.md" in said and "not-there" in said
    assert (out / "index.html").read_text() == page, "the site that was there stays"


def test_every_public_name_is_described() -> None:
    assert missing_words(caffe_split) == []


def test_what_is_not_described_is_found() -> None:
    def plain(a: int, b: int) -> None:
        """It takes a alone."""

    def bare() -> None:
        pass

    @dataclass
    class Record:
        """A record of x."""

        x: int
        y: int

        def method(self) -> None:
            pass

    module = ModuleType("module")
    module.__all__ = ["plain", "bare", "Record"]  # type: ignore[attr-defined]
    module.__dict__.update(plain=plain, bare=bare, Record=Record)
    assert missing_words(module) == ["plain(b)", "bare", "Record.y", "Record.method()"]


def test_python_in_the_pages_fits_the_library() -> None:
    assert wrong_examples(ROOT) == []


def test_an_example_that_does_not_fit_is_found(tmp_path: Path) -> None:
    blocks = [
        "import caffe_split as cs\n\ncs.read_log('a').best()",
        "cs.read_log('a', 1, 2)",
        "plan = (\n    caffe_split.derive(training, 5, kind='skip', out='d'))",
        "cs.derrive(training)",
        "for",
    ]
    (tmp_path / "a.md").write_text("# A\n\n" + "\n".join(f"```python\n{block}\n```\n" for block in blocks))
    first, second, third, fourth = wrong_examples(tmp_path)
    assert first.startswith("a.md:10: read_log(") and "too many positional arguments" in first
    assert second.startswith("a.md:15: derive(") and "unexpected keyword argument 'kind'" in second
    assert third == "a.md:19: caffe_split has no derrive"
    assert fourth.startswith("a.md:23: this is no Python")


def test_the_page_of_commands_has_each_once_with_all_its_options() -> None:
    page = with_commands((ROOT / "docs/commands.md").read_text(encoding="utf-8"))
    for name in [*COMMANDS, "plot_loss.py"]:
        assert page.count(f"\n## `{name}`\n") == 1, name
    assert "`--added-lr NUMBER`" in page and "### `data cifar10`" in page
    assert "\n## `best`\n" in with_commands("# Commands\n"), "a command that the page forgot"
    with pytest.raises(SystemExit, match="describes bestt: there is no such command"):
        with_commands("# Commands\n\n## `bestt`\n")


def test_an_option_without_help_is_found() -> None:
    @click.group()
    def group() -> None:
        pass

    @group.command()
    @click.option("--bare", "-b")
    @click.option("--told", help="Of something.")
    def inner() -> None:
        pass

    assert undescribed({"group": group}) == ["group inner --bare"]


def test_the_page_of_the_library_has_each_name() -> None:
    page = with_library((ROOT / "docs/library.md").read_text(encoding="utf-8"))
    assert [name for name in caffe_split.__all__ if f":: caffe_split.{name}\n" not in page] == []
    with pytest.raises(SystemExit, match="describes read_lgo: there is no such public name"):
        with_library("<!-- api: read_lgo -->\n")
