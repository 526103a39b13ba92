"""Normalised branches: the TEST phase is unchanged, the statistics are those of the data, training goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.backends.choose import get_backend
from caffe_split.data.store import read_store
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers
from tests.support import caffe_split, train

each_backend = pytest.mark.usefixtures("backend")

NET = "digits/train_val.prototxt"
ENDS = {
    "residual": ["conv1_split1", "conv1_split2", "conv1_split2_residual_post"],
    "skip": ["conv1_split1", "conv1_split2", "conv1_split2_skip"],
    "extension": ["conv1_split1", "conv1_split2_extension"],
    "acnet": ["conv1_split1", "conv1_split2", "conv1_split2_acnet_row", "conv1_split2_acnet_column"],
    "dbb": ["conv1_split1", *(f"conv1_split2{end}" for end in ("", "_dbb_1x1", "_dbb_kxk", "_dbb_average"))],
}


def derive(folder: Path, *options: object, status: int = 0) -> str:
    result = caffe_split(
        "make-derived",
        "digits/solver.prototxt",
        "--iter",
        100,
        "--layers",
        "conv1,res2_conv1,res3_proj",
        "--branch-norm",
        *options,
        cwd=folder,
        status=status,
    )
    return result.stdout + result.stderr


@each_backend
@pytest.mark.parametrize("kind", ENDS)
def test_the_test_phase_is_unchanged(digits: Path, kind: str) -> None:
    for name in ("train_val", "deploy"):
        path = digits / f"digits/{name}.prototxt"
        fraction = "moving_average_fraction: 0.95"
        assert fraction in path.read_text()
        path.write_text(path.read_text().replace(fraction, f"{fraction} eps: 0.5"))
    # res3_proj is a 1x1, to which these have nothing to add.
    layers = ("--layers", "conv1,res2_conv1") if kind in ("acnet", "dbb") else ()
    derive(digits, "--kind", kind, "--deploy", "digits/deploy.prototxt", *layers)
    for name in ("train_val", "deploy"):
        result = caffe_split("verify", f"digits/{name}.prototxt", f"derived1/{name}.prototxt", "--json", cwd=digits)
        assert max(row["relative"] for row in json.loads(result.stdout)["blobs"]) < 1e-4
    layers = {layer.name: layer for layer in all_layers(prototxt.read(digits / "derived1/train_val.prototxt"))}
    assert [name[:-3] for name in layers if re.fullmatch(r"conv1_split.*_bn", name)] == ENDS[kind]
    for end in ENDS[kind]:
        norm, scale = layers[f"{end}_bn"], layers[f"{end}_scale"]
        assert (norm.type, scale.type) == ("BatchNorm", "Scale")
        assert norm.bottoms == norm.tops == scale.bottoms == scale.tops == (end,)
        # The net's own BatchNorm layers forget faster than Caffe's default.
        assert norm.message.sub("batch_norm_param").get("moving_average_fraction") == 0.95
        assert norm.message.sub("batch_norm_param").get("eps") == 0.5


@each_backend
def test_the_statistics_are_those_of_the_training_data(digits: Path) -> None:
    """Against numpy over all 197 images: 197 batches of 16 are each image 16 times."""
    derive(digits, "--kind", "residual", "--noise", 0, "--calibrate", 197)
    weights = caffemodel.read_weights(digits / "derived1/init.caffemodel")
    images = np.stack([image for image, _ in read_store(digits / "data/digits_train_lmdb")]).astype(np.float64)
    scale = prototxt.read(digits / NET).subs("layer")[0].sub("transform_param").get("scale")
    padded = np.pad(images * scale, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    kernels = np.asarray(weights["conv1_split1"][0], np.float64)
    values = np.einsum("ncyxij,kcij->knyx", windows, kernels).reshape(len(kernels), -1)
    if len(weights["conv1_split1"]) > 1:
        values += np.asarray(weights["conv1_split1"][1], np.float64)[:, None]
    mean, variance, factor = weights["conv1_split1_bn"]
    np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, values.var(axis=1), rtol=1e-4)
    assert factor.tolist() == [1.0]
    gamma, beta = weights["conv1_split1_scale"]
    np.testing.assert_allclose(gamma, np.sqrt(np.asarray(variance, np.float64) + 1e-5), rtol=1e-6)
    assert np.array_equal(beta, mean)


@pytest.mark.skipif(not get_backend("torch").is_there(), reason="PyTorch is not installed: ./tools/environment --torch")
@pytest.mark.caffe
def test_the_torch_engine_measures_the_same(digits: Path) -> None:
    made = {}
    for engine in ("caffe", "torch"):
        said = derive(digits, "--kind", "residual", "--engine", engine, "--out", engine)
        assert f"20 batches, run in {'Caffe' if engine == 'caffe' else 'the torch engine'}" in said
        made[engine] = caffemodel.read_weights(digits / engine / "init.caffemodel")
    assert list(made["caffe"]) == list(made["torch"])
    for name in made["caffe"]:
        for a, b in zip(made["torch"][name], made["caffe"][name]):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


@each_backend
def test_it_trains_and_the_norms_learn(digits: Path) -> None:
    derive(digits, "--kind", "skip")
    log = train("derived1/solver.prototxt", digits)
    accuracies = [float(value) for value in re.findall(r"Test net output #\d+: accuracy = (\S+)", log)]
    assert accuracies[0] > 0.85 and accuracies[-1] > 0.85
    before = caffemodel.read_weights(digits / "derived1/init.caffemodel")
    after = caffemodel.read_weights(digits / "derived1/digits_iter_100.caffemodel")
    for name in ("conv1_split2_skip_scale", "conv1_split1_bn"):
        assert not np.allclose(before[name][0], after[name][0])
    assert np.array_equal(before["conv1_split2_skip"][0], after["conv1_split2_skip"][0])


@each_backend
def test_same_bytes_again_and_a_continued_schedule(digits: Path) -> None:
    solver = (digits / "digits/solver.prototxt").read_text()
    (digits / "digits/solver.prototxt").write_text(solver.replace("max_iter: 100", "max_iter: 110"))
    derive(digits, "--schedule", "continue")
    first = [(digits / "derived1" / name).read_bytes() for name in ("init.caffemodel", "init.solverstate")]
    derive(digits, "--schedule", "continue", "--force")
    assert first == [(digits / "derived1" / name).read_bytes() for name in ("init.caffemodel", "init.solverstate")]
    log = train("derived1/solver.prototxt", digits, snapshot="derived1/init.solverstate")
    assert "Iteration 100, Testing net" in log and "derived1/digits_iter_110.caffemodel" in log


def test_a_deploy_net_has_no_data_to_measure(digits: Path) -> None:
    said = caffe_split(
        "make-derived",
        "digits/deploy.prototxt",
        "--weights",
        "digits/digits_iter_100.caffemodel",
        "--layers",
        "conv1",
        "--partition",
        "random:0",
        "--branch-norm",
        "--out",
        "d",
        cwd=digits,
        status=1,
    ).stderr
    assert "this net has no data layer. Give the training net or its solver, and this one as --deploy." in said
    assert not (digits / "d").exists()
