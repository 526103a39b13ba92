"""Partial folding: the net computes the same with fewer branches, which can be split, trained and folded on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_split.backends.choose import get_backend
from caffe_split.backends.compare import compare_nets
from caffe_split.backends.protocol import Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError
from caffe_split.folding import make
from caffe_split.folding.merge import merge_stems
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import all_layers
from caffe_split.split.kinds import KindName
from caffe_split.split.recognise import find_splits
from tests.split.nets import DATA, layer, net, split_again
from tests.support import caffe_split

CONV = (
    "convolution_param {{ num_output: {count} kernel_size: 3 pad: 1 stride: {stride} group: {group} "
    "bias_term: {bias} }}"
)


def written(document: prototxt.Document, seed: int, folder: Path, small: str = "", factor: float = 1e-3) -> NetFiles:
    """The net with random weights; those of layers with `small` in their names are multiplied by `factor`."""
    rng = np.random.default_rng(seed)
    blobs, found = {}, infer_shapes(all_layers(document))
    for each, shapes in {**found.params, **found.state}.items():
        scale = factor if small and small in each else 1.0
        blobs[each] = [
            (scale * rng.uniform(0.2, 1, shape) * rng.choice([-1, 1], shape)).astype(np.float32) for shape in shapes
        ]
        if each.endswith("_bn"):
            blobs[each][1] = np.abs(blobs[each][1])
            blobs[each][2] = np.ones_like(blobs[each][2])
    files = NetFiles(folder / "net.prototxt", folder / "w.caffemodel")
    prototxt.write(document, files.net)
    caffemodel.write_weights(files.weights, blobs)
    return files


def worst(one: NetFiles, other: Path, folder: Path, backend: str) -> float:
    found = NetFiles(other / "net.prototxt", other / "folded.caffemodel")
    rows = compare_nets(get_backend(backend), one, found, Forwarding())
    return max(row.relative for row in rows if row.blob == "t")


@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["residual", "acnet", "dbb", "conv1x1", "identity"]),
    group=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
    bias=st.sampled_from(["true", "false"]),
    norm=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_function_stays(
    *,
    kind: KindName,
    group: int,
    stride: int,
    bias: str,
    norm: bool,
    whole: bool,
    seed: int,
    backend: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("trim")
    group = 1 if kind == "residual" else group  # its post mixes the groups
    text = DATA + layer("x", "Convolution", "b", CONV.format(count=8, stride=stride, group=group, bias=bias), "t")
    document = net(text)
    split_again(document, "x", norm, whole, kind=kind)
    files = written(document, seed, folder, "acnet_row" if kind == "acnet" else "dbb_1x1" if kind == "dbb" else "")
    parts = kind in ("acnet", "dbb")
    # One of several branches, or else all there are; then the groups must not have been mixed by a reorder.
    limit = 0.05 if parts and not norm else 1e9
    if limit > 1 and group > 1 and not whole:
        return
    plan = make.fold(files.net, files.weights, out=folder / "out", options=make.FoldOptions(smaller_than=limit))
    plan.write(check=None)
    assert worst(files, folder / "out", folder, backend) < 1e-4
    if limit > 1:
        assert [each.name for each in plan.folded] == ["x"] and not plan.trimmed
        return
    (cut,) = plan.trimmed
    (gone,) = cut.gone
    assert gone in ("x_split2_acnet_row", "x_split2_dbb_1x1") and cut.gone[gone] < 0.05 <= min(cut.left.values())
    (split,) = find_splits(all_layers(prototxt.parse(plan.texts["net.prototxt"].decode(), "net")))
    assert split.kind == kind and len(cut.left) == {"acnet": 1, "dbb": 2}[kind]
    # What is left folds as any split does.
    if group == 1 or whole:
        folded = make.fold(folder / "out/net.prototxt", folder / "out/folded.caffemodel", out=folder / "all")
        folded.write(check=None)
        assert worst(files, folder / "all", folder, backend) < 1e-4
        assert bias == "false" or folded.texts["net.prototxt"].decode() == text


def test_normalised_branches_go_before_the_normalisation_of_the_slow_half(backend: str, tmp_path: Path) -> None:
    document = net(DATA + layer("x", "Convolution", "b", CONV.format(count=8, stride=1, group=1, bias="true"), "t"))
    split_again(document, "x", True, kind="dbb")
    files = written(document, 3, tmp_path, "dbb_kxk_scale")
    plan = make.fold(files.net, files.weights, out=tmp_path / "out", options=make.FoldOptions(smaller_than=0.05))
    plan.write(check=None)
    (cut,) = plan.trimmed
    assert list(cut.gone) == ["x_split2_dbb_kxk"] and len(cut.left) == 2
    names = {each.name for each in all_layers(prototxt.parse(plan.texts["net.prototxt"].decode(), "net"))}
    assert not any("kxk" in name for name in names | set(plan.weights)) and "x_split2_bn" in names
    assert worst(files, tmp_path / "out", tmp_path, backend) < 1e-4


def rounds() -> prototxt.Document:
    conv = CONV.format(count=8, stride=1, group=1, bias="true")
    document = net(DATA + layer("x", "Convolution", "b", conv, "u") + layer("y", "Convolution", "u", conv, "t"))
    split_again(document, "x", kind="dbb")
    split_again(document, "y", kind="skip")
    split_again(document, "x_split2", kind="acnet")
    split_again(document, "x_split1", kind="extension")
    return document


def random_blobs(document: prototxt.Document) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = infer_shapes(all_layers(document)).params
    return {name: [rng.standard_normal(shape).astype(np.float32) for shape in found] for name, found in shapes.items()}


def test_the_splits_of_some_layers_and_those_inside_them() -> None:
    for layers, gone in (
        (["x"], ["x_split1", "x_split2", "x"]),
        (["x_split2"], ["x_split2"]),
        (["x_split1", "y"], ["x_split1", "y"]),
    ):
        document = rounds()
        folded, kept, *_ = merge_stems([document], random_blobs(document), layers=layers)
        assert sorted(each.name for each in folded) == sorted(gone) and kept == {}
        left = {split.origin for split in find_splits(all_layers(document))}
        assert left == {"x", "y"} - set(gone)
    with pytest.raises(
        CaffeSplitError, match=r"--layers: no layer 'z' was split\. Those that were: x_split1, x_split2, x, y\."
    ):
        merge_stems([rounds()], {}, layers=["x", "z"])


def test_what_has_no_small_branch_says_the_shares() -> None:
    document = rounds()
    before = str(document)
    folded, kept, _, trimmed = merge_stems([document], random_blobs(document), smaller_than=1e-6)
    assert folded == [] == trimmed and str(document) == before
    assert kept["x_split2"].startswith("no branch has a share below 1e-06: x_split2_split2_acnet_row (0.")
    assert kept["x_split1"] == "what is added to it is no branch beside its slow half"
    assert kept["x"] == "its slow half 'x_split2' was split again and is not folded"


@pytest.mark.usefixtures("any_backend")
def test_on_the_command_line(tmp_path: Path) -> None:
    document = net(DATA + layer("x", "Convolution", "b", CONV.format(count=8, stride=1, group=1, bias="true"), "t"))
    split_again(document, "x", whole=True, kind="acnet")
    files = written(document, 0, tmp_path, "acnet_column", 0.03)
    words = ["fold", files.net, files.weights, "--out", "out"]
    said = caffe_split(*words, "--smaller-than", 0.1, cwd=tmp_path).stdout
    # X_split2 is in both nets, and computes more than before.
    assert "same function" in said
    assert "x: x_split2_acnet_column (0.0" in said and "into the slow half; x_split2_acnet_row (0." in said
    for options, status in ((["--smaller-than", "0"], 2), (["--layers", "y"], 1), (["--smaller-than", "1e-9"], 1)):
        caffe_split(*words, "--force", *options, cwd=tmp_path, status=status)
