"""The other sources of data: against pycaffe where the built Caffe has them, else against OpenCV's decoding."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image
from runs import write_training
from support import caffe_split
from test_data import here, in_caffe, near

from caffe_split.data.images import decode_image
from caffe_split.errors import CaffeSplitError
from caffe_split.proto import caffe_pb2

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

from caffe_split.engine.group import Group  # noqa: E402

LIST = 'hdf5_data_param { source: "list" batch_size: %d %s }'
IMAGES = 'source: "list.txt" batch_size: %d %s'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def layer(kind: str, options: str, tops: str = "data label") -> str:
    wires = " ".join(f'top: "{top}"' for top in tops.split())
    return f'layer {{ name: "data" type: "{kind}" {wires} {options} }}'


def write_records(records: list[dict[str, Any]], path: str = "store") -> None:
    with lmdb.open(path, map_size=1 << 24) as store, store.begin(write=True) as transaction:
        for index, fields in enumerate(records):
            datum = caffe_pb2.Datum(label=index, **fields).SerializeToString()
            transaction.put(f"{index:08d}".encode(), datum)


def picture(seed: int, size: tuple[int, int] = (9, 11), channels: int = 3) -> np.ndarray:
    """Smooth, as photographs are, so that a JPEG of it is near to it: (height, width, channels)."""
    rng = np.random.default_rng(seed)
    grid = np.add.outer(np.arange(size[0]), np.arange(size[1]))[..., None]
    return (128 + 100 * np.sin(grid * rng.uniform(0.1, 0.4, channels) + rng.uniform(0, 6, channels))).astype(np.uint8)


def encoded(values: np.ndarray, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values.squeeze()).save(stream, form, **options)
    return stream.getvalue()


# -- records of LMDBs


@pytest.mark.caffe
def test_float_records_as_caffe() -> None:
    rng = np.random.default_rng(1)
    shape = {"channels": 2, "height": 4, "width": 5}
    records: list[dict[str, Any]] = [
        {**shape, "float_data": rng.normal(size=40).astype(np.float32).tolist()} for _ in range(4)
    ]
    records.append({**shape, "data": rng.integers(0, 256, 40, np.uint8).tobytes()})
    write_records(records)
    text = layer(
        "Data",
        'data_param { source: "store" batch_size: 7 backend: LMDB } '
        "transform_param { crop_size: 3 mean_value: 0.25 scale: 0.5 }",
    )
    near(here(text), in_caffe({"floats": text})["floats"])


def test_images_are_decoded_as_opencv_does() -> None:
    cv2 = pytest.importorskip("cv2")
    flags = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}
    palette = Image.fromarray(picture(3)).convert("P", palette=Image.Palette.ADAPTIVE)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "png": encoded(picture(1), "PNG"),
        "gray": encoded(picture(2, channels=1), "PNG"),
        "alpha": encoded(picture(4, channels=4), "PNG"),
        "palette": stream.getvalue(),
        "bmp": encoded(picture(5), "BMP"),
        "jpeg": encoded(picture(6, (40, 30)), "JPEG", quality=80),
        "gray jpeg": encoded(picture(7, (40, 30), 1), "JPEG"),
        "turned jpeg": encoded(picture(8, (40, 30)), "JPEG", exif=turned),
    }
    for name, data in files.items():
        for color, flag in flags.items():
            theirs = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
            theirs = theirs[None] if theirs.ndim == 2 else theirs.transpose(2, 0, 1)
            ours = decode_image(data, color)
            assert ours.shape == theirs.shape, (name, color)
            # Gray is rounded in one of two ways; so is a JPEG.
            allowed = 1 if color is False or "jpeg" in name else 0
            assert np.abs(ours.astype(int) - theirs).max() <= allowed, (name, color)


@pytest.mark.parametrize(("options", "channels"), [("", 3), ("force_color: true", 3), ("force_gray: true", 1)])
def test_encoded_records_of_many_sizes_are_cropped(options: str, channels: int) -> None:
    cv2 = pytest.importorskip("cv2")
    pictures = [picture(seed, (7 + seed, 9 + 2 * seed)) for seed in range(4)]
    write_records([{"data": encoded(values, "PNG"), "encoded": True} for values in pictures])
    text = layer(
        "Data",
        f'data_param {{ source: "store" batch_size: 4 backend: LMDB }} '
        f"transform_param {{ crop_size: 5 mean_value: 10 scale: 0.1 {options} }}",
    )
    blobs = here(text).forward().blobs
    assert tuple(blobs["data"].shape) == (4, channels, 5, 5) and blobs["label"].tolist() == [0, 1, 2, 3]
    for values, ours in zip(pictures, blobs["data"].numpy()):
        theirs = values[:, :, ::-1] if channels == 3 else cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
        top, left = (values.shape[0] - 5) // 2, (values.shape[1] - 5) // 2
        cut = theirs[top : top + 5, left : left + 5].transpose(2, 0, 1)
        assert np.abs((cut.astype(np.float32) - 10) * 0.1 - ours).max() <= (1e-5 if channels == 3 else 0.11)


# -- HDF5 files


@pytest.fixture
def rows(folder: Path) -> dict[str, np.ndarray]:
    """Two files of 3 and 5 rows, of a double, an integer and a float data set."""
    rng = np.random.default_rng(2)
    found = {
        "data": rng.normal(size=(8, 2, 3)),
        "label": rng.integers(0, 99, size=8),
        "far": rng.normal(size=(8, 4, 3, 2, 2)).astype(np.float32),
    }
    for name, part in (("a.h5", slice(0, 3)), ("b.h5", slice(3, 8))):
        with h5py.File(name, "w") as stream:
            for key, values in found.items():
                stream[key] = values[part]
    Path("list").write_text("a.h5\nb.h5\n")
    return found


@pytest.mark.caffe
def test_hdf5_as_caffe(rows: dict[str, np.ndarray]) -> None:
    text = layer("HDF5Data", LIST % (7, ""), "data label far")
    theirs = in_caffe({"hdf5": text}, forwards=3)["hdf5"]
    near(here(text), theirs, forwards=3)
    assert theirs["label"].tolist() == [rows["label"][index % 8] for index in range(14, 21)]


def test_hdf5_shuffled(rows: dict[str, np.ndarray]) -> None:
    text = layer("HDF5Data", LIST % (8, "shuffle: true"), "label data")
    seen = []
    for seed in (1, 1, 2):
        net = here(text, seed=seed)
        rounds = []
        for _ in range(8):
            blobs = net.forward().blobs
            order = [int(np.flatnonzero(rows["label"] == label)[0]) for label in blobs["label"]]
            assert sorted(order) == list(range(8))
            assert np.allclose(blobs["data"].numpy(), rows["data"][order])
            # A file's rows stay together.
            assert len({index < 3 for index in order[:3]}) == 1 or len({index < 3 for index in order[:5]}) == 1
            rounds.append(order)
        # Each round has another order of the files, and of a file's rows.
        assert len({order[0] < 3 for order in rounds}) == 2
        assert len({tuple(index for index in order if index >= 3) for order in rounds}) > 5
        seen.append(rounds)
    assert seen[0] == seen[1] != seen[2]


# -- image files


@pytest.fixture
def listed(folder: Path) -> list[np.ndarray]:
    """Five images of one size below "root/", with labels 10 to 14, a name with a blank among them."""
    Path("root").mkdir()
    found = [picture(seed, (12, 10)) for seed in range(5)]
    lines = []
    for index, values in enumerate(found):
        name = f"an image {index}.png" if index == 2 else f"{index}.png"
        Path("root", name).write_bytes(encoded(values, "PNG"))
        lines.append(f"{name} {10 + index}\n")
    Path("list.txt").write_text("".join(lines))
    return found


def image_data(batch: int, options: str = "", transform: str = "") -> str:
    options = f'root_folder: "root/" {options}'
    return layer("ImageData", f"image_data_param {{ {IMAGES % (batch, options)} }} transform_param {{ {transform} }}")


@pytest.mark.parametrize("size", [None, (7, 13), (30, 8)])
@pytest.mark.parametrize("color", [True, False])
def test_image_lists_as_opencv_reads_them(listed: list[np.ndarray], size: tuple[int, int] | None, color: bool) -> None:
    cv2 = pytest.importorskip("cv2")
    sized = f"new_height: {size[0]} new_width: {size[1]}" if size else ""
    text = image_data(7, f"{sized} is_color: {str(color).lower()}", "scale: 0.5 mean_value: 30")
    blobs = here(text).forward().blobs
    assert blobs["label"].tolist() == [10, 11, 12, 13, 14, 10, 11]
    for index, ours in enumerate(blobs["data"].numpy()):
        name = "an image 2.png" if index == 2 else f"{index % 5}.png"
        theirs = cv2.imread(f"root/{name}", cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
        theirs = cv2.resize(theirs, size[::-1]) if size else theirs
        theirs = theirs.transpose(2, 0, 1) if color else theirs[None]
        assert ours.shape == theirs.shape
        # A step of rounding where OpenCV resizes in fixed point, and one in what is gray; a step is 0.5 here.
        allowed = 0.5 * (size is not None) + 0.5 * (not color) + 1e-5
        assert np.abs((theirs.astype(np.float32) - 30) * 0.5 - ours).max() <= allowed


def test_image_lists_shuffled_and_skipped(listed: list[np.ndarray]) -> None:
    starts, orders = set(), set()
    for seed in range(12):
        labels = [int(label) for label in here(image_data(5, "rand_skip: 4"), seed=seed).forward().blobs["label"]]
        starts.add(labels[0])
        assert labels == [10 + (labels[0] - 10 + index) % 5 for index in range(5)]
        net, again = (here(image_data(5, "shuffle: true"), seed=seed) for _ in range(2))
        rounds = [net.forward().blobs["label"].tolist() for _ in range(3)]
        assert rounds == [again.forward().blobs["label"].tolist() for _ in range(3)]
        assert all(sorted(order) == [10, 11, 12, 13, 14] for order in rounds) and len(set(map(tuple, rounds))) > 1
        orders.update(map(tuple, rounds))
    assert starts == {10, 11, 12, 13} and len(orders) > 20


# -- arrays


@pytest.mark.caffe
def test_arrays_as_caffe() -> None:
    rng = np.random.default_rng(3)
    images, labels = rng.normal(size=(9, 2, 4, 5)).astype(np.float32), np.arange(9, dtype=np.float32)
    text = layer("MemoryData", "memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }")
    theirs = in_caffe({"memory": text}, forwards=5, memory_images=images, memory_labels=labels)["memory"]
    net = here(text)
    net.set_input_arrays(images, labels)
    near(net, theirs, forwards=5)
    assert theirs["label"].reshape(-1).tolist() == [3, 4, 5]


def test_arrays_given_to_a_training_that_goes_on() -> None:
    images, labels = np.zeros((12, 2, 4, 5), np.float32), np.arange(12)
    net = here(layer("MemoryData", "memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }"))
    net.go_to(2)
    net.set_input_arrays(images, labels)
    assert net.forward().blobs["label"].tolist() == [6, 7, 8]
    net.set_input_arrays(images, labels)
    assert net.forward().blobs["label"].tolist() == [0, 1, 2]


# -- all of them


def test_parts_and_numbers_of_batches(listed: list[np.ndarray], rows: dict[str, np.ndarray]) -> None:
    """Two processes have the halves of a batch, and whoever goes on at a batch has that one."""
    write_records([{"data": encoded(values, "PNG"), "encoded": True} for values in listed])
    images, labels = np.random.default_rng(0).normal(size=(12, 1, 2, 2)), np.arange(12)
    texts = {
        "image": image_data(6, "shuffle: true rand_skip: 3", "crop_size: 6 mirror: true"),
        "hdf5": layer("HDF5Data", LIST % (6, "shuffle: true")),
        "store": layer("Data", 'data_param { source: "store" batch_size: 6 backend: LMDB }'),
        "memory": layer("MemoryData", "memory_data_param { batch_size: 6 channels: 1 height: 2 width: 2 }"),
    }
    for name, text in texts.items():
        nets = [here(text, "TRAIN", seed=5, group=group) for group in (Group(), Group(0, 2), Group(1, 2), Group())]
        if name == "memory":
            for net in nets:
                net.set_input_arrays(images, labels)
        nets[3].go_to(2)
        for number in range(4):
            whole, *halves = (net.forward().blobs for net in nets[:3])
            late = nets[3].forward().blobs if number > 1 else whole
            for blob, values in whole.items():
                assert torch.equal(values, torch.cat([half[blob] for half in halves])), (name, blob, number)
                assert torch.equal(values, late[blob]), (name, blob, number)


# -- mistakes


def refused(text: str, **given: Any) -> str:
    with pytest.raises(CaffeSplitError) as said:
        net = here(text, "TRAIN")
        if given:
            net.set_input_arrays(**given)
        for _ in range(3):
            net.forward()
    return str(said.value)


STORE = 'data_param { source: "store" batch_size: 4 backend: LMDB }'


@pytest.mark.parametrize(
    ("records", "options", "expected"),
    [
        ([{"data": b"no image", "encoded": True}], STORE, "store: record 0: an image that cannot be decoded"),
        ([{"channels": 1, "height": 2, "width": 2, "data": b"abc"}], STORE,
         "store: record 0: a Datum of shape (1, 2, 2) holds 3 values"),
        ([{"channels": 1, "height": 2, "width": 2, "float_data": [1.0] * 5}], STORE, "holds 5 values"),
        ([{"data": encoded(picture(0, (4 + n, 5)), "PNG"), "encoded": True} for n in (0, 0, 1)], STORE,
         "store: record 2 has shape (3, 5, 5), the first (3, 4, 5); one batch holds one shape."),
        ([{"data": encoded(picture(0, (6 - n, 5)), "PNG"), "encoded": True} for n in (0, 0, 3)],
         f"{STORE} transform_param {{ crop_size: 4 }}",
         "store: record 2 has shape (3, 3, 5), less than its crop_size 4"),
        ([{"data": encoded(picture(0, (6, 5), 3 - n), "PNG"), "encoded": True} for n in (0, 2)],
         f"{STORE} transform_param {{ crop_size: 4 }}", "store: record 1 has shape (1, 6, 5), the first (3, 6, 5)"),
        ([{"data": encoded(picture(0), "PNG"), "encoded": True}],
         f"{STORE} transform_param {{ force_color: true force_gray: true }}", "Caffe takes one of them"),
        ([], STORE.replace("LMDB", "LEVELDB"), "backend: LEVELDB is not handled; write the data set anew as an LMDB"),
        ([], STORE.replace("backend: LMDB", ""), "LEVELDB (Caffe's default, as none is written)"),
        ([], STORE, "store: the LMDB holds no record"),
    ],
)  # fmt: skip
def test_records_that_are_refused(records: list[dict[str, Any]], options: str, expected: str) -> None:
    write_records(records)
    assert expected in refused(layer("Data", options))


@pytest.mark.parametrize(
    ("listing", "options", "expected"),
    [
        ("a.png 1\ngone.png 2\n", "", "list.txt:2: no image 'root/gone.png' seen from"),
        ("a.png\n", "", "list.txt:1: 'a.png'; expected a file, a blank and a label"),
        ("a.png one\n", "", "list.txt:1: 'a.png one'; expected"),
        ("\n", "", "list.txt lists no image"),
        ("bad.png 0\n", "", "root/bad.png: an image that cannot be decoded"),
        ("a.png 0\nb.png 0\n", "", "root/b.png has shape (3, 5, 5), the first (3, 4, 5)"),
        ("deep.png 0\n", "", "root/deep.png: an image of mode I;16; expected one of 8 bits"),
        ("a.png 0\n", "new_height: 4", "new_height and new_width go together"),
        ("a.png 0\n", "rand_skip: 900", "would pass over all of its 1 images"),
        (None, "", "source: no file 'list.txt' seen from"),
    ],
)
def test_image_lists_that_are_refused(listing: str | None, options: str, expected: str) -> None:
    Path("root").mkdir()
    for name, size in (("a", (4, 5)), ("b", (5, 5))):
        Path(f"root/{name}.png").write_bytes(encoded(picture(1, size), "PNG"))
    Path("root/bad.png").write_bytes(b"no image")
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save("root/deep.png")
    if listing is not None:
        Path("list.txt").write_text(listing)
    assert expected in refused(image_data(2, options))


@pytest.mark.parametrize(
    ("listing", "options", "tops", "expected"),
    [
        ("gone.h5", "", "data", "no HDF5 file 'gone.h5' seen from"),
        ("", "", "data", "list lists no HDF5 file"),
        ("list", "", "data", "list: no HDF5 file that can be read"),
        ("a.h5", "", "data labels", "a.h5: no data set 'labels'; it has data, far, label"),
        ("c.h5", "", "data label", "c.h5: 3, 2 rows in its data sets"),
        ("a.h5 d.h5", "", "data", "d.h5: rows of shapes [(4,)]; those of a.h5 are [(2, 3)]"),
        ("d.h5", "", "text", "data set 'text' of type object and shape (2,); expected rows of numbers"),
        ("a.h5", "transform_param { scale: 2 }", "data", "HDF5Data does not transform; take transform_param out"),
        (None, "", "data", "source: no file 'list' seen from"),
    ],
)
def test_hdf5_files_that_are_refused(
    rows: dict[str, np.ndarray], listing: str | None, options: str, tops: str, expected: str
) -> None:
    with h5py.File("c.h5", "w") as stream:
        stream["data"], stream["label"] = np.zeros((3, 2)), np.zeros(2)
    with h5py.File("d.h5", "w") as stream:
        stream["data"], stream["text"] = np.zeros((3, 4)), ["a", "b"]
    if listing is None:
        Path("list").unlink()
    else:
        Path("list").write_text(listing)
    assert expected in refused(layer("HDF5Data", f"{LIST % (2, '')} {options}", tops))


def test_hdf5_without_h5py(rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_split.engine import checks

    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda _: None)
    assert "HDF5Data needs h5py: pip install 'caffe-split[hdf5]'" in refused(layer("HDF5Data", LIST % (2, "")))


LOSS = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: %d } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_param { ignore_label: 99 } }
"""


def test_labels_are_looked_at_before_the_training(listed: list[np.ndarray], rows: dict[str, np.ndarray]) -> None:
    high = int(rows["label"].max())
    for text, classes in ((image_data(1), 15), (layer("HDF5Data", LIST % (1, "")), high + 1)):
        here(text + LOSS % classes)
        with pytest.raises(CaffeSplitError, match=f"'loss' .*: a label is {classes - 1}, but bottom 'ip' scores"):
            here(text + LOSS % (classes - 1))
    Path("list.txt").write_text("0.png 99\n1.png 0\n")
    here(image_data(1) + LOSS % 1)
    Path("list.txt").write_text("0.png 99\n1.png -1\n")
    with pytest.raises(CaffeSplitError, match="a label is -1"):
        here(image_data(1) + LOSS % 1)


def test_arrays_that_are_refused() -> None:
    text = layer("MemoryData", "memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }")
    assert "given no arrays: net.set_input_arrays(images, labels)" in refused(text)
    for images, labels in (((4, 2, 4, 5), (4,)), ((3, 2, 5, 4), (3,)), ((3, 2, 4, 5), (4,)), ((0, 2, 4, 5), (0,))):
        assert "N a multiple of its batch of 3" in refused(text, images=np.zeros(images), labels=np.zeros(labels))
    assert "have to be given" in refused(text.replace("height: 4", ""))
    with pytest.raises(CaffeSplitError, match="no MemoryData layer 'other'"):
        here(text).set_input_arrays(np.zeros((3, 2, 4, 5)), np.zeros(3), "other")


def test_a_command_cannot_give_arrays(folder: Path) -> None:
    write_training(folder, 'base_lr: 0.01 lr_policy: "fixed"', 2)
    net = folder / "net.prototxt"
    lines = net.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if 'type: "Data"' in line)
    lines[start : start + 3] = [
        layer("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 9 width: 9 }")
        .replace('type: "MemoryData"', 'type: "MemoryData" include { phase: TRAIN }')
    ]
    net.write_text("\n".join(lines))
    said = caffe_split("train", "solver.prototxt", "--engine", "torch", cwd=folder, status=1).stderr
    assert re.search(r"net.prototxt:\d+: layer 'data': MemoryData is given its arrays in Python", said), said
