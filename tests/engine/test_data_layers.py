"""The other data layers give what pycaffe gives, or, where the built Caffe lacks them, what OpenCV decodes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_split.data.images import decode_image
from tests.engine.runs import numbers
from tests.engine.source_files import LIST, encoded, here, image_data, in_caffe, layer, near, picture, write_records
from tests.support import train

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

from caffe_split.engine.parallel.group import Group

pytestmark = pytest.mark.usefixtures("folder")


# -- records of LMDBs


@pytest.mark.caffe
def test_float_records_match_caffe() -> None:
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
            ours = np.asarray(decode_image(data, color))
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


@pytest.mark.caffe
def test_hdf5_matches_caffe(rows: dict[str, np.ndarray]) -> None:
    text = layer("HDF5Data", LIST % (7, ""), "data label far")
    theirs = in_caffe({"hdf5": text}, forwards=3)["hdf5"]
    near(here(text), theirs, forwards=3)
    assert theirs["label"].tolist() == [rows["label"][index % 8] for index in range(14, 21)]


def test_shuffled_hdf5_gives_each_row_once_per_round(rows: dict[str, np.ndarray]) -> None:
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


@pytest.mark.parametrize("size", [None, (7, 13), (30, 8)])
@pytest.mark.parametrize("color", [True, False])
def test_image_lists_match_opencv(listed: list[np.ndarray], size: tuple[int, int] | None, color: bool) -> None:
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


def test_shuffled_image_lists_give_each_image_once_per_round(listed: list[np.ndarray]) -> None:
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
def test_arrays_match_caffe() -> None:
    rng = np.random.default_rng(3)
    images, labels = rng.normal(size=(9, 2, 4, 5)).astype(np.float32), np.arange(9, dtype=np.float32)
    text = layer("MemoryData", "memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }")
    theirs = in_caffe({"memory": text}, forwards=5, memory_images=images, memory_labels=labels)["memory"]
    net = here(text)
    net.set_input_arrays(images, labels)
    near(net, theirs, forwards=5)
    assert theirs["label"].reshape(-1).tolist() == [3, 4, 5]


def test_first_arrays_begin_at_the_batch_of_a_resumed_training() -> None:
    images, labels = np.zeros((12, 2, 4, 5), np.float32), np.arange(12)
    net = here(layer("MemoryData", "memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }"))
    net.go_to(2)
    net.set_input_arrays(images, labels)
    assert net.forward().blobs["label"].tolist() == [6, 7, 8]
    net.set_input_arrays(images, labels)
    assert net.forward().blobs["label"].tolist() == [0, 1, 2]


# -- all of them


def test_each_process_gets_its_rows_of_any_batch(listed: list[np.ndarray], rows: dict[str, np.ndarray]) -> None:
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


# -- several layers that draw


def test_each_layer_draws_by_a_seed_of_its_own(listed: list[np.ndarray]) -> None:
    """As in Caffe: a siamese net would otherwise see every image paired with itself. The first one has the net's."""
    text = image_data(6, "shuffle: true rand_skip: 3", "crop_size: 5 mirror: true")
    other = text.replace('name: "data"', 'name: "other"').replace('"data"', '"data2"').replace('"label"', '"label2"')
    alone, pair, again = (here(net, "TRAIN", seed=1) for net in (text, text + other, text + other))
    for _ in range(3):
        blobs = pair.forward().blobs
        assert blobs["label"].tolist() != blobs["label2"].tolist()
        assert all(torch.equal(blobs[name], blob) for name, blob in again.forward().blobs.items())
        assert all(torch.equal(blobs[name], blob) for name, blob in alone.forward().blobs.items())


def test_crops_of_two_layers_differ() -> None:
    write_records([{"data": encoded(picture(1, (30, 30)), "PNG"), "encoded": True}] * 4)
    options = 'data_param { source: "store" batch_size: 4 backend: LMDB } transform_param { crop_size: 9 mirror: true }'
    text = layer("Data", options, "data")
    blobs = here(text + text.replace('"data"', '"other"'), "TRAIN", seed=1).forward().blobs
    assert not torch.equal(blobs["data"], blobs["other"])


def test_rows_of_two_layers_are_shuffled_apart(backend: str, folder: Path) -> None:
    with h5py.File("a.h5", "w") as stream:
        stream["data"] = stream["other"] = np.arange(20.0).reshape(20, 1)
    Path("list").write_text("a.h5\n")
    text = layer("HDF5Data", LIST % (20, "shuffle: true"), "data")
    ip = 'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" param {{ name: "w" }} '
    ip += 'param {{ name: "b" }} inner_product_param {{ num_output: 1 weight_filler {{ value: 1 }} }} }}'
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "left" bottom: "right" top: "loss" }'
    both = text + text.replace('"data"', '"other"') + ip.format("left", "data") + ip.format("right", "other")
    Path("net.prototxt").write_text(both + loss)
    solver = 'net: "net.prototxt" base_lr: 0 lr_policy: "fixed" max_iter: 3 display: 1 snapshot_after_train: false'
    Path("solver.prototxt").write_text(f'{solver} snapshot_prefix: "n" solver_mode: CPU random_seed: 1')
    losses = numbers(train("solver.prototxt", folder, backend=backend))["Train net output #0: loss"]
    assert len(losses) == 3 and min(losses) > 10


def test_a_layer_that_draws_nothing_counts_for_none(listed: list[np.ndarray], rows: dict[str, np.ndarray]) -> None:
    first = layer("HDF5Data", LIST % (8, "shuffle: false"), "far").replace('"data"', '"numbers"')
    text = image_data(6, "shuffle: true")
    nets = here(text, "TRAIN", seed=1), here(first + text, "TRAIN", seed=1)
    labels = [net.forward().blobs["label"].tolist() for net in nets]
    assert labels[0] == labels[1]
