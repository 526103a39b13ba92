"""The nets of prototxt/: what they are, and every split of them exact in the real Caffe."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import all_layers, convolutions, phase_layers
from caffe_split.net.state import TEST
from caffe_split.split.recognise import helper_names
from tests.support import CAFFE, ROOT, caffe_split, run_caffe, train

PLAIN = sorted(path.parent.name for path in ROOT.glob("prototxt/*/solver.prototxt"))
CIFAR = [name for name in PLAIN if "cifar" in name]

# Convolutions, parameters, multiply-adds. The papers give 0.27 M parameters for ResNet-20 and 1.3 M for All-CNN-C.
SIZES = {
    "all_cnn_c_cifar10": (9, 1_369_738, 270_798_336),
    "cifar10_quick": (3, 145_578, 12_354_176),
    "cifar10_quick_bn": (3, 145_706, 12_354_176),
    "digits": (9, 39_354, 611_648),
    "resnet20_cifar10": (19, 269_722, 40_551_040),
    "resnet20_cifar100": (19, 275_572, 40_556_800),
}


@pytest.mark.parametrize("name", PLAIN)
def test_sizes(name: str) -> None:
    net = prototxt.read(ROOT / "prototxt" / name / "deploy.prototxt")
    shapes = infer_shapes(phase_layers(net, TEST))
    assert not shapes.unknown
    found = len(list(convolutions(all_layers(net)))), shapes.parameter_count, shapes.mac_count
    assert found == SIZES[name]


@pytest.mark.parametrize("name", PLAIN)
def test_the_deploy_net_is_the_trained_net(name: str) -> None:
    """The same layers in the same words, but for the data in front and the loss behind."""
    trained, deployed = (
        {layer.name: str(layer.message) for layer in all_layers(prototxt.read(ROOT / "prototxt" / name / file))}
        for file in ("train_val.prototxt", "deploy.prototxt")
    )
    assert {each for each in trained if trained[each] != deployed.get(each)} == {"data", "loss", "accuracy"}
    assert {each for each in deployed if each not in trained} <= {"prob"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LMDBs in CIFAR's form: the digits, 4 times as large, in three colours."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder = tmp_path_factory.mktemp("cifar") / "data"
    folder.mkdir()
    tints = np.array([1.0, 0.7, 0.4])[:, None, None]
    large = (np.kron(image * (255 / 16), np.ones((4, 4))) for image in digits.images)
    images = [np.round(image * tints).astype(np.uint8) for image in large]
    for classes in (10, 100):
        labels = [int(label) * classes // 10 for label in digits.target]
        for path, pad, chosen in (
            (f"cifar{classes}_train_lmdb", 0, range(64)),
            (f"cifar{classes}_test_lmdb", 0, range(64, 96)),
            (f"padded/cifar{classes}_train_lmdb", 4, range(64)),
            (f"padded/cifar{classes}_test_lmdb", 0, range(64, 96)),
        ):
            samples = ((np.pad(images[i], ((0, 0), (pad, pad), (pad, pad))), labels[i]) for i in chosen)
            write_store(folder / path, samples)
    return folder


def prepare(name: str, data: Path, folder: Path, iterations: int) -> None:
    """The net and its solver in a folder of their own, cut down to a few iterations of 2 images."""
    shutil.copytree(ROOT / "prototxt" / name, folder / name)
    (folder / "data").symlink_to(data)
    net, solver = folder / name / "train_val.prototxt", folder / name / "solver.prototxt"
    for path, edits in (
        (net, [(r"batch_size: \d+", "batch_size: 2")]),
        (
            solver,
            [
                (r"test_iter: \d+", "test_iter: 1"),
                (r"max_iter: \d+", f"max_iter: {iterations}"),
                (r"base_lr: .*", "base_lr: 0.001"),
                (r"snapshot: \d+", "snapshot: 1000"),
            ],
        ),
    ):
        text = path.read_text()
        for old, new in edits:
            text, count = re.subn(old, new, text)
            assert count
        path.write_text(text)


@pytest.fixture(scope="module")
def cifar_nets(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which the nets were trained for a few iterations, so that BatchNorm has statistics."""
    folders = {}
    for name in CIFAR:
        folders[name] = tmp_path_factory.mktemp(name)
        prepare(name, data, folders[name], 3)
        log = train(f"{name}/solver.prototxt", folders[name])
        assert "Optimization Done." in log and "loss = nan" not in log
    return folders


KINDS = {
    "residual": ("--kind", "residual"),
    "skip": ("--kind", "skip"),
    "average": ("--kind", "skip", "--skip-pool", "average"),
    "extension": ("--kind", "extension"),
}


# ResNet-20 for 100 classes has the convolutions of the one for 10.
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if name == "resnet20_cifar100" and kind != "residual" else [])
    for name in CIFAR
    for kind in KINDS
]


@pytest.mark.caffe
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_layer_of_every_net_splits_exactly_and_folds(
    name: str, kind: str, cifar_nets: dict[str, Path], tmp_path: Path
) -> None:
    folder = cifar_nets[name]
    out = tmp_path / "derived"
    net, deploy = f"{name}/train_val.prototxt", f"{name}/deploy.prototxt"
    names = [layer.name for layer in convolutions(all_layers(prototxt.read(folder / net)))]
    caffe_split(
        "make-derived",
        net,
        "--iter",
        3,
        "--layers",
        ",".join(names),
        "--partition",
        "random:0",
        "--out",
        out,
        "--deploy",
        deploy,
        *KINDS[kind],
        cwd=folder,
    )
    for base in (net, deploy):
        result = caffe_split("verify", base, out / Path(base).name, "--json", cwd=folder)
        rows = {row["blob"]: row["relative"] for row in json.loads(result.stdout)["blobs"]}
        assert set(names) <= set(rows) and max(rows.values()) < 1e-4
    caffe_split(
        "fold",
        out / "train_val.prototxt",
        out / "init.caffemodel",
        "--deploy",
        out / "deploy.prototxt",
        "--out",
        tmp_path / "folded",
        cwd=folder,
    )
    for base in (net, deploy):
        assert (tmp_path / "folded" / Path(base).name).read_bytes() == (folder / base).read_bytes()


ROUNDS = {
    "residual": (),
    **{kind: ("--kind", kind) for kind in ("conv1x1", "acnet", "dbb", "identity")},
    "whole dbb": ("--kind", "dbb", "--partition", "all"),
    "whole residual": ("--kind", "residual", "--partition", "all"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "residual" else [pytest.mark.slow]) for kind in ROUNDS]
)
def test_three_rounds_of_nine_splits(data: Path, tmp_path: Path, kind: str) -> None:
    """MultiSplits, MultiSplits2, MultiSplits3: nine layers at a time, chosen by TPM, exact and trainable each time."""
    engine = "caffe" if kind == "residual" and CAFFE.exists() else "torch"
    prepare("resnet20_cifar100", data, tmp_path, 4)
    baseline = (tmp_path / "resnet20_cifar100/train_val.prototxt").read_text()
    caffe_split("instrument", "resnet20_cifar100/train_val.prototxt", "--window", "0:4", "--in-place", cwd=tmp_path)
    train("resnet20_cifar100/solver.prototxt", tmp_path, backend=engine)
    parent, counts = "resnet20_cifar100", []
    for turn in (1, 2, 3):
        out = f"multisplits{turn}"
        plan = json.loads(
            caffe_split(
                "make-derived",
                f"{parent}/solver.prototxt",
                "--iter",
                4,
                "--num-splits",
                9,
                "--partition",
                "otsu",
                "--out",
                out,
                "--seed",
                turn,
                "--json",
                *ROUNDS[kind],
                cwd=tmp_path,
            ).stdout
        )
        helpers = helper_names(all_layers(prototxt.read(tmp_path / parent / "train_val.prototxt")))
        assert len(plan["layers"]) == 9 and not helpers & {layer["name"] for layer in plan["layers"]}
        result = caffe_split("verify", f"{parent}/train_val.prototxt", f"{out}/train_val.prototxt", cwd=tmp_path)
        assert "same function" in result.stdout
        if turn == 1:
            # Not trained, each round comes back byte for byte.
            caffe_split("fold", f"{out}/train_val.prototxt", f"{out}/init.caffemodel", "--no-verify", cwd=tmp_path)
            watched = (tmp_path / "resnet20_cifar100/train_val.prototxt").read_bytes()
            assert (tmp_path / "folded/train_val.prototxt").read_bytes() == watched
            shutil.rmtree(tmp_path / "folded")
        log = train(f"{out}/solver.prototxt", tmp_path, backend=engine)
        assert "Optimization Done." in log and "loss = nan" not in log
        names = [layer.name for layer in all_layers(prototxt.read(tmp_path / out / "train_val.prototxt"))]
        assert len(set(names)) == len(names) - 1  # data is there once a phase
        counts.append(len(names))
        parent = out
    assert counts == sorted(set(counts))
    weights = "multisplits3/resnet20_cifar100_iter_4.caffemodel"
    folded = json.loads(caffe_split("fold", "multisplits3/train_val.prototxt", weights, "--json", cwd=tmp_path).stdout)
    assert len(folded["folded"]) == 27 and folded["kept"] == {} and folded["largest_difference"][0] < 1e-4
    caffe_split("instrument", "folded/train_val.prototxt", "--remove", "--in-place", cwd=tmp_path)
    assert (tmp_path / "folded/train_val.prototxt").read_text() == baseline
    if engine != "caffe":
        return
    # What is folded runs as the baseline.
    log = run_caffe(
        "test",
        "-model",
        "resnet20_cifar100/train_val.prototxt",
        "-weights",
        "folded/folded.caffemodel",
        "-iterations",
        "1",
        cwd=tmp_path,
    )
    assert "Batch 0, accuracy" in log
