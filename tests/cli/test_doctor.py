"""`caffe-split doctor`: what it says of each engine and package is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.backends import choose, installed
from caffe_split.backends.protocol import Backend, Forwarded, NotFoundError
from caffe_split.errors import CaffeSplitError
from tests.support import ROOT, caffe_split


class Fake(Backend):
    name, title, library, module, how_to_get = "fake", "Fake", "FakeLib", "fake", "pip install fake"
    gives: object = None

    def require(self) -> None:
        if self.gives is None:
            raise NotFoundError("FakeLib is not here: pip install fake")

    def forward(self, nets: object, how: object) -> list[Forwarded]:
        if isinstance(self.gives, Exception):
            raise self.gives
        return [Forwarded(["y"], [{"y": np.asarray(self.gives)}])]


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (None, "not here (runs and trains any net that it knows): FakeLib is not here: pip install fake"),
        ([[[[1, 3], [5, 7]]]], "works: FakeLib"),
        ([[[[1, 3], [5, 8]]]], "WRONG: FakeLib computes a convolution wrongly"),
        (ImportError("libfoo.so: cannot open"), "FAILS: FakeLib: libfoo.so: cannot open"),
        (CaffeSplitError("child ended:\n  Check failed"), "FAILS: FakeLib: child ended: Check failed"),
    ],
    ids=["missing", "works", "wrong", "does not load", "fails"],
)
def test_an_engine_is_judged_by_what_it_computes(gives: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "gives", gives)
    monkeypatch.setattr(installed, "backends", lambda deploy_only: [Fake()])
    assert f"engine fake    {said}" in installed.installed()


def test_the_engines_that_are_here_work(tmp_path: Path) -> None:
    lines = caffe_split("doctor", cwd=tmp_path).stdout.splitlines()
    assert len(lines) <= 12 and list(tmp_path.iterdir()) == []
    for each in choose.backends(deploy_only=True):
        (line,) = (line for line in lines if line.startswith(f"engine {each.name}"))
        assert ("works" if each.is_there() else "not here") in line, line


def test_every_extra_that_users_have_is_named() -> None:
    (call,) = (
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    words = {
        word.arg: ast.literal_eval(word.value)
        for word in call.keywords
        if (word.arg and word.arg.endswith("quires")) or word.arg == "extras_require"
    }
    names = [re.match(r"[\w-]+", each)[0] for each in words["install_requires"]]
    assert sorted(names) == sorted(installed.NEEDED)
    engines = {"torch", "opencv"}
    assert {each.extra for each in installed.EXTRAS} | engines | {"test"} == set(words["extras_require"])
