"""Names of a split's layers: made and taken apart in one file, and spelt nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe_split
from caffe_split.split import naming
from caffe_split.split.kinds import added_words, helper_words
from caffe_split.split.naming import PartName, parts_among, take_apart
from tests.split.nets import NET, net, split_again

PACKAGE = Path(caffe_split.__file__).parent
# Endings that no other name has are looked for anywhere in a text, common words where a text begins with them.
SPELT = re.compile(
    r"_(split1|split2|reorder|residual_pre|residual_post|residual_relu)\b|^_(concat|sum|skip|extension|bn|scale)\b"
)
# TPM layers are no part of a split; their names are tpm's.
WATCHER = re.compile(r"^_tpm(_w|_weight)?\b")
WORDS = st.text(alphabet="abx_12", min_size=1, max_size=8)


def spelt_names(source: str, pattern: re.Pattern[str]) -> list[str]:
    """The texts of a module in which a name is spelt, without docstrings, which explain."""
    tree = ast.parse(source)
    explained = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in explained and pattern.search(node.value)]


def modules_that_spell(pattern: re.Pattern[str]) -> set[str]:
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "caffe_pb2.py"]
    return {
        path.relative_to(PACKAGE).as_posix() for path in paths if spelt_names(path.read_text(encoding="utf-8"), pattern)
    }


def test_the_names_of_a_split_are_spelt_in_one_module() -> None:
    assert modules_that_spell(SPELT) == {"split/naming.py"}


def test_the_names_of_tpm_layers_are_spelt_in_one_module() -> None:
    assert modules_that_spell(WATCHER) == {"tpm/layers.py"}


@pytest.mark.parametrize(
    "text", ['f"{x}_split1"', '"X_reorder"', 'x + "_skip"', 'f"{x}_split2_residual_post"', 'f"{x}_bn"']
)
def test_a_spelt_name_is_seen(text: str) -> None:
    assert spelt_names(f"a = {text}", SPELT)
    assert not spelt_names('def f():\n    """Makes X_split1."""\n    return "rand_skip"', SPELT)


@given(origin=WORDS)
def test_a_made_name_is_taken_apart_again(origin: str) -> None:
    words = added_words()
    assert take_apart(naming.fast_half(origin), words) == PartName(origin, "split1")
    assert take_apart(naming.slow_half(origin), words) == PartName(origin, "split2")
    assert take_apart(naming.concat(origin), words) == PartName(origin, "concat")
    assert take_apart(naming.reorder(origin), words) == PartName(origin, "reorder")
    assert naming.reordered(naming.reorder(origin)) == origin
    for word in words:
        assert take_apart(naming.added(origin, word), words) == PartName(origin, "added", word)
        assert take_apart(naming.fast_half(naming.added(origin, word)), words) == PartName(
            naming.added(origin, word), "split1"
        )


@pytest.mark.parametrize("name", ["conv", "_split1", "_reorder", "_split2_skip", "conv_skip", "reorder", ""])
def test_other_names_say_nothing(name: str) -> None:
    assert take_apart(name, added_words()) is None and naming.reordered(name) is None


def test_helpers_are_the_added_convolutions_that_are_not_split_again() -> None:
    assert added_words() - helper_words() == {"residual_pre"}


def test_names_alone_are_parts_where_the_whole_split_is_among_them() -> None:
    document = net(NET)
    split_again(document, "x", kind="residual")
    split_again(document, "x_split1", kind="skip")
    whole = [layer.get("name") for layer in document.subs("layer") if layer.get("type") == "Convolution"]
    assert set(parts_among(whole, added_words())) == set(whole) - {"y"}
    assert set(parts_among([*whole, "y_split2"], added_words())) == set(whole) - {"y"}
    lone = {"frames_reorder", "z_split1", "z_split2", "z_reorder", "conv_skip"}
    assert set(parts_among({*whole, *lone}, added_words())) == set(whole) - {"y"}
    for gone in ("x_reorder", "x_split2", "x_split2_residual_pre"):
        rest = set(whole) - {gone}
        left = parts_among(rest, added_words())
        kept = gone.startswith("x_split2_residual")
        assert ("x_split2_residual_post" in left) == kept


def test_names_of_layers_that_were_not_divided_are_parts_too() -> None:
    document = net(NET)
    split_again(document, "x", whole=True, kind="residual")
    split_again(document, "x_split2", whole=True, kind="dbb")
    split_again(document, "x_split2_residual_pre", kind="skip")
    whole = [layer.get("name") for layer in document.subs("layer") if layer.get("type") == "Convolution"]
    assert set(parts_among(whole, added_words())) == set(whole) - {"y"}
    assert set(parts_among({"x_split2", "x_split2_acnet_row"}, added_words())) == {"x_split2", "x_split2_acnet_row"}
    assert not parts_among({"x_split1", "x_split2", "x_split2_skip"}, added_words())
    assert not parts_among({"x_split2", "x_split2_skip", "x_reorder"}, added_words())
