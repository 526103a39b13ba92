"""Classes of images: beside the steps of Caffe's classification example, done with OpenCV and pycaffe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caffe_split as cs
from caffe_split.data.images import resize_image
from caffe_split.formats.weights.binaryproto import encode_mean
from caffe_split.inference.labels import read_labels
from tests.support import caffe_split

DEPLOY = """
layer {{ name: "data" type: "Input" top: "data" {transform}
        input_param {{ shape {{ dim: 3 dim: {channels} dim: 8 dim: 6 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 7 }} }}
layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}
"""
# Name -> mode and size of an image; 16x12 is exactly twice the net's input.
IMAGES = {
    "colour.png": ("RGB", (17, 23)),
    "gray.png": ("L", (9, 9)),
    "alpha.png": ("RGBA", (30, 5)),
    "twice.png": ("RGB", (12, 16)),
    "same.png": ("RGB", (6, 8)),
    "palette.gif": ("P", (11, 13)),
    "rows.bmp": ("RGB", (5, 40)),
}


def deploy(folder: Path, channels: int, transform: str = "") -> None:
    (folder / "deploy.prototxt").write_text(DEPLOY.format(channels=channels, transform=transform))
    weights = np.random.default_rng(1).normal(size=(7, channels * 48)) * 0.003
    cs.write_weights(folder / "w.caffemodel", {"ip": [weights, np.zeros(7)]})


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, (mode, (width, height)) in IMAGES.items():
        bands = {"RGB": 3, "L": 1, "RGBA": 4, "P": 3}[mode]
        values = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
        image = Image.fromarray(values[:, :, 0] if bands == 1 else values)
        (image.convert("P") if mode == "P" else image).save(name)
    return tmp_path


def prepared(name: str, channels: int) -> np.ndarray:
    """An image as the example prepares it, in front of the mean."""
    cv2 = pytest.importorskip("cv2")
    image = cv2.imread(name, cv2.IMREAD_UNCHANGED)
    found = 1 if image.ndim == 2 else image.shape[2]
    code = {(3, 1): "BGR2GRAY", (4, 1): "BGRA2GRAY", (4, 3): "BGRA2BGR", (1, 3): "GRAY2BGR"}.get((found, channels))
    image = image if code is None else cv2.cvtColor(image, getattr(cv2, f"COLOR_{code}"))
    image = image if image.shape[:2] == (8, 6) else cv2.resize(image, (6, 8))
    return image.astype(np.float32).reshape(8, 6, channels).transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [3, 1])
def test_it_is_what_the_example_computes(photos: Path, backend: str, channels: int) -> None:
    """GIFs are left out, which some OpenCVs cannot read."""
    deploy(photos, channels)
    mean = [104.0, 117.0, 123.0][:channels]
    names = [name for name in IMAGES if not name.endswith(".gif")]
    words = [word for name in names for word in ("--image", name)]
    said = caffe_split(
        "test", "deploy.prototxt", "w.caffemodel", *words, "--mean", ",".join(map(str, mean)), cwd=photos
    ).stdout.splitlines()
    weights = np.asarray(cs.read_weights("w.caffemodel")["ip"][0], np.float64)
    for number, name in enumerate(names):
        pixels = prepared(name, channels) - np.array(mean).reshape(-1, 1, 1)
        scores = np.exp(weights @ pixels.ravel())
        scores /= scores.sum()
        lines = said[6 * number : 6 * number + 6]
        assert lines[0] == f"---------- Prediction for {name} ----------"
        order = np.argsort(-scores)[:5]
        assert [line.split(" - ")[1] for line in lines[1:]] == [f'"{index}"' for index in order]
        # A few pixels of OpenCV's may differ by 1 of 255: see `resize_image`.
        found = [float(line.split(" - ")[0]) for line in lines[1:]]
        assert found == pytest.approx(scores[order].tolist(), abs=2e-3)
        assert all(len(line.split(" - ")[0]) == 6 for line in lines[1:])


def test_resizing_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    other = values = 0
    for _ in range(60):
        height, width, new_height, new_width = map(int, rng.integers(1, 90, 4))
        if rng.random() < 0.2:
            height, width = 2 * new_height, 2 * new_width
        image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        theirs = cv2.resize(image.transpose(1, 2, 0).copy(), (new_width, new_height)).transpose(2, 0, 1)
        ours = resize_image(image, (new_height, new_width))
        assert ours.shape == theirs.shape and ours.dtype == np.uint8
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1
        other, values = other + np.count_nonzero(difference), values + difference.size
    assert other < values / 100


def test_means_scales_and_the_order_of_colours(photos: Path, any_backend: str) -> None:
    """What gives the same pixels gives the same scores."""
    deploy(photos, 3)
    image = np.random.default_rng(2).normal(100, 20, (3, 9, 9)).astype(np.float32)
    (photos / "mean.binaryproto").write_bytes(encode_mean(image))
    np.save(photos / "mean.npy", image)
    values = ",".join(str(float(channel.mean(dtype=np.float64))) for channel in image)

    def scores(**how: object) -> list[float]:
        (found,) = cs.classify(
            "deploy.prototxt", "w.caffemodel", ["colour.png"], top=7, preprocessing=cs.Preprocessing(**how)
        )
        return [score for _, score in sorted((int(name), score) for score, name in found.classes)]

    same = scores(mean=values)
    for file in ("mean.binaryproto", "mean.npy"):
        assert scores(mean=file) == pytest.approx(same)
    assert scores(mean=values, rgb=True) != pytest.approx(same)
    scaled = scores(mean=values, scale=0.5)
    assert scaled != pytest.approx(same)
    written = "".join(f" mean_value: {value}" for value in values.split(","))
    deploy(photos, 3, "transform_param { scale: 0.5" + written + " }")
    assert scores() == pytest.approx(scaled) and scores(scale=1.0) == pytest.approx(same)
    deploy(photos, 3, 'transform_param { mean_file: "mean.binaryproto" }')
    assert scores() == pytest.approx(same)
    turned = Image.merge("RGB", Image.open("colour.png").split()[::-1])
    turned.save("colour.png")
    deploy(photos, 3)
    assert scores(mean=values, rgb=True) == pytest.approx(same)


def test_the_transform_of_the_net_with_the_data_layer(photos: Path, any_backend: str) -> None:
    deploy(photos, 3)
    data = (
        'layer {{ name: "{top}" type: "Data" top: "{top}" top: "label" include {{ phase: {phase} }} '
        'transform_param {{ {transform} }} data_param {{ source: "none" batch_size: 1 }} }}\n'
    )

    def scores(**how: object) -> list[tuple[float, str]]:
        (found,) = cs.classify("deploy.prototxt", "w.caffemodel", ["colour.png"], preprocessing=cs.Preprocessing(**how))
        assert found.notes == ()
        return list(found.classes)

    train = data.format(top="data", phase="TRAIN", transform="mirror: true scale: 3")
    test = data.format(top="data", phase="TEST", transform="scale: 0.25 mean_value: 90 mean_value: 100 mean_value: 110")
    Path("train_val.prototxt").write_text(train + test)
    assert scores(transform_of="train_val.prototxt") == scores(mean="90,100,110", scale=0.25)
    # What is said beside it counts first.
    assert scores(transform_of="train_val.prototxt", scale=1.0) == scores(mean="90,100,110", scale=1.0)
    Path("train_val.prototxt").write_text(train + test.replace('"data"', '"images"'))
    assert scores(transform_of="train_val.prototxt") == scores(mean="90,100,110", scale=0.25)
    Path("train_val.prototxt").write_text(train)
    with pytest.raises(
        cs.CaffeSplitError, match="--transform-of: no data layer of its TEST phase has a transform_param"
    ):
        scores(transform_of="train_val.prototxt")
    Path("train_val.prototxt").write_text(test.replace("mean_value: 90 ", ""))
    with pytest.raises(cs.CaffeSplitError, match=r"^train_val.prototxt: layer 'data' \(line 1\): a mean of 2 channels"):
        scores(transform_of="train_val.prototxt")
    two = test.replace('"data"', '"one"') + test.replace('"data"', '"two"').replace('"label"', '"more"')
    Path("train_val.prototxt").write_text(two)
    said = "its data layers give one, two, and deploy.prototxt has the inputs of images data; give them the same names"
    with pytest.raises(
        cs.CaffeSplitError, match=f"train_val.prototxt: --transform-of: {said}, or say --mean and --scale"
    ):
        scores(transform_of="train_val.prototxt")


def test_labels_and_json(photos: Path, any_backend: str) -> None:
    deploy(photos, 3)
    names = [f"n0{number} name, with a comma" for number in range(7)]
    # As an editor on Windows writes it.
    (photos / "labels.txt").write_text("\ufeff" + "\r\n".join(names) + "\n", encoding="utf-8")
    words = ("test", "deploy.prototxt", "w.caffemodel", "--image", "gray.png", "--labels", "labels.txt")
    plain, said = caffe_split(*words, cwd=photos).stdout, caffe_split(*words, "--json", cwd=photos).stdout
    (found,) = json.loads(said)
    assert found["image"] == "gray.png" and len(found["classes"]) == 5
    assert read_labels("labels.txt") == names
    assert plain.splitlines()[1] == f'{found["classes"][0]["score"]:.4f} - "{found["classes"][0]["name"]}"'
    assert {each["name"] for each in found["classes"]} <= set(names)
    (photos / "labels.txt").write_text("one\n")
    said = caffe_split(*words, cwd=photos, status=1).stderr
    assert "labels.txt names 1 classes, and the net scores 7; expected one name per line." in said


def test_pixels_that_are_taken_as_they_are_are_noted(photos: Path, any_backend: str) -> None:
    """The training may have had a mean and a scale, of which a deploy net does not know."""
    deploy(photos, 3)
    words = ("test", "deploy.prototxt", "w.caffemodel", "--image", "gray.png")
    said = caffe_split(*words, cwd=photos).stderr
    assert said == (
        "note: nothing is subtracted and the scale is 1; if the net was trained with a mean or a scale, give --mean "
        "and --scale, or the net with the data layer by --transform-of\n"
    )
    assert not caffe_split(*words, "--scale", "1", cwd=photos).stderr
    words = ("extract", "deploy.prototxt", "w.caffemodel", "--images", "gray.png", "--blob", "ip", "--out")
    assert "note: nothing is subtracted" in caffe_split(*words, "f", cwd=photos).stderr
    text = (
        (photos / "deploy.prototxt").read_text().replace('type: "Input"', 'type: "Input" transform_param { scale: 1 }')
    )
    (photos / "deploy.prototxt").write_text(text)
    assert "note" not in caffe_split(*words, "g", cwd=photos).stderr


def test_what_is_not_computed_is_said(photos: Path) -> None:
    """A fork's loss at the end of a net, which needs labels that an image has not."""
    pytest.importorskip("torch")
    deploy(photos, 3)
    words = ("test", "deploy.prototxt", "w.caffemodel", "--image", "gray.png", "--mean", "0", "--engine", "torch")
    before = caffe_split(*words, cwd=photos)
    with (photos / "deploy.prototxt").open("a") as stream:
        stream.write('layer { name: "far" type: "QuartetLoss" bottom: "ip" }\n')
    said = caffe_split(*words, cwd=photos)
    assert said.stdout == before.stdout and not before.stderr
    assert said.stderr.startswith("note: Leaving out layer far (line ") and said.stderr.count("\n") == 1


REFUSED = {
    "cut.png: an image that cannot be decoded": (("--image", "cut.png"), ""),
    "text.jpg: an image that cannot be decoded: of no kind that Pillow knows, or damaged": (
        ("--image", "text.jpg"),
        "",
    ),
    "none.jpg: no image can be read: No such file": (("--image", "none.jpg"), ""),
    "a mean of 2 channels, and the net's input has 3": (("--image", "gray.png", "--mean", "1,2"), ""),
    "gone.binaryproto: no such mean file": (("--image", "gray.png", "--mean", "gone.binaryproto"), ""),
    "nan: no such mean file": (("--image", "gray.png", "--mean", "nan"), ""),
    "no labels can be read": (("--image", "gray.png", "--labels", "gone.txt"), ""),
    "has one output; it has a, b": (("--image", "gray.png"), "two outputs"),
    "with one input (an Input layer); its inputs: none": (("--image", "gray.png"), "no input"),
    "expected (N, 1 or 3 channels, height, width)": (("--image", "gray.png"), "two channels"),
    "w.caffemodel: layer 'ip'": (("--image", "gray.png"), "other weights"),
}


@pytest.mark.parametrize("expected", REFUSED)
def test_what_is_refused(photos: Path, any_backend: str, expected: str) -> None:
    words, change = REFUSED[expected]
    deploy(photos, 2 if change == "two channels" else 3)
    net = photos / "deploy.prototxt"
    if change == "two outputs":
        pair = 'layer { name: "n" type: "Slice" bottom: "prob" top: "a" top: "b" slice_param { slice_point: 2 } }'
        net.write_text(net.read_text() + pair)
    if change == "no input":
        data = 'type: "DummyData" top: "data" dummy_data_param { shape { dim: 3 dim: 3 dim: 8 dim: 6 } }'
        net.write_text('layer { name: "data" ' + data + " }" + net.read_text().split("} }\n", 1)[1].lstrip("}\n "))
    if change == "other weights":
        cs.write_weights("w.caffemodel", {"ip": [np.ones((7, 5)), np.ones(7)]})
    (photos / "cut.png").write_bytes((photos / "colour.png").read_bytes()[:60])
    (photos / "text.jpg").write_text("no image\n")
    said = caffe_split("test", "deploy.prototxt", "w.caffemodel", *words, cwd=photos, status=1).stderr
    assert expected in said and said.count("\n") == 1, said


def test_wrong_use(photos: Path) -> None:
    deploy(photos, 3)
    for words, expected in {
        ("--image", "gray.png", "--top", "5"): "are for a test set",
        ("--mean", "1"): "are for --image",
        ("--labels", "deploy.prototxt"): "",
    }.items():
        status = 1 if not expected else 2
        said = caffe_split("test", "deploy.prototxt", "w.caffemodel", *words, cwd=photos, status=status).stderr
        assert expected in said
