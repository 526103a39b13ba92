"""HDF5Output: the file that Caffe writes, once, and never over another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from tests.engine.case import Case, layer
from tests.engine.judge import run_pycaffe, values

TEXT = layer("HDF5Output", "x t", "", 'hdf5_output_param { file_name: "%s.h5" }')
SHAPES = {"x": (4, 3, 2), "t": (4,)}


def case(name: str) -> Case:
    return Case(TEXT % name, SHAPES, [], back=False)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.caffe
def test_the_file_is_that_of_caffe(tmp_path: Path) -> None:
    net = Net(prototxt.parse(case("ours").prototxt(), kind="net"), "TRAIN")
    given = values(case("theirs"), net, np.random.default_rng(1))
    run_pycaffe(tmp_path, {"theirs": case("theirs")}, {"theirs": given})
    net.forward({key[5:]: value for key, value in given.items() if key.startswith("blob:")})
    with h5py.File("ours.h5") as ours, h5py.File("theirs.h5") as theirs:
        assert set(ours) == set(theirs) == {"data", "label"}
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype and np.array_equal(ours[name], theirs[name])
        assert ours["data"].shape == (4, 3, 2, 1) and ours["label"].shape == (4, 1, 1, 1)


def test_one_batch_is_written_and_no_file_overwritten() -> None:
    document = prototxt.parse(case("ours").prototxt(), kind="net")
    net, late = Net(document, "TEST"), Net(document, "TEST")
    assert not Path("ours.h5").exists()
    net.forward()
    with pytest.raises(CaffeSplitError, match=r"layer 'l' .*writes one, and Caffe stops at the second"):
        net.forward()
    before = Path("ours.h5").read_bytes()
    with pytest.raises(CaffeSplitError, match=r"layer 'l' .*ours\.h5.* exists"):
        late.forward()
    with pytest.raises(CaffeSplitError, match=r"'ours\.h5' exists, and Caffe would overwrite it"):
        Net(document, "TEST")
    assert Path("ours.h5").read_bytes() == before and os.listdir(".") == ["ours.h5"]


def test_bottoms_that_do_not_fit_are_refused() -> None:
    for shapes, said in (
        ({"x": (4, 3), "t": (5,)}, "as many records"),
        ({"x": (4, 3, 1, 1, 1), "t": (4,)}, "four axes"),
    ):
        with pytest.raises(CaffeSplitError, match=said):
            Net(prototxt.parse(Case(TEXT % "x", shapes).prototxt(), kind="net"), "TEST")
