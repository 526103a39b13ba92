"""What the pages show is what comes out: every console session and Python block of the pages that run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.site.pages import RunPage, make_world, pages, run_page, same

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: ./tools/environment --torch"
)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """World -> a folder that has it, made when first asked for."""
    return {}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.slow else (), id=page.path.stem) for page in pages()],
)
def test_what_a_page_shows_comes_out(
    page: RunPage, worlds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if page.world not in worlds:
        worlds[page.world] = tmp_path_factory.mktemp(page.world)
        make_world(page.world, worlds[page.world])
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(worlds[page.world], folder)
    run_page(page, folder)
    for block in page.blocks:
        for (command, shown), (_, said) in zip(block.commands, block.said):
            assert same(shown, said), f"{page.path.name}: {command}shows\n{shown}\nand prints\n{said}"


@pytest.mark.parametrize(
    ("shown", "said", "is_same"),
    [
        ("a 1.50\n", "a  1.51\n", True),
        ("a 1.50\n", "a 1.60\n", False),
        ("a 150\n", "a 151\n", False),
        ("39,354 parameters", "39,354 parameters", True),
        ("39,354 parameters", "39,355 parameters", False),
        ("in 3 s", "in 75 s", True),
        ("| a |---|\n", "| a |-------|\n", True),
        ("first\n...\nlast", "first\n1\n2\nlast\n", True),
        ("first\n...\nlast", "first\n1\n2\n", False),
        ("best at ..., load it", "best at 40, load it", True),
        ("one line", "one line\nand another", False),
        ("", "", True),
        ("", "a word", False),
    ],
)
def test_what_counts_as_the_same(shown: str, said: str, is_same: bool) -> None:
    assert same(shown, said) is is_same
