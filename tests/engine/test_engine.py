"""The engine as a package: its names come without PyTorch, and load it when they are used."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

from caffe_split import engine
from caffe_split.errors import CaffeSplitError


def test_importing_the_engine_does_not_import_torch() -> None:
    script = "import sys, caffe_split.engine, caffe_split.engine.spec.command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_example_runs() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    done = doctest.testmod(engine)
    assert done.attempted > 3
    assert done.failed == 0


def test_the_public_names_are_listed_and_no_others_exist() -> None:
    assert set(engine.__all__) <= set(dir(engine))
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = engine.Trainer


@pytest.mark.parametrize("name", ["Net", "Solver"])
def test_without_torch_a_use_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CaffeSplitError, match="pip install torch"):
        getattr(engine, name)
