"""Pictures of kernels: what is in the tiles, on which scale, beside what; the command and its refusals."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from tests.support import caffe_split

matplotlib.use("Agg")
from matplotlib.figure import Figure

from caffe_split.diagram.mosaic import MOST_TILES, kernel_mosaic, largest
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers
from caffe_split.plot.kernels import draw_kernels, mosaics, shown_layers
from caffe_split.split.recognise import layer_roles

DATA = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'


def conv(name: str, bottom: str, count: int, kernel: int = 3) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: {count} kernel_size: {kernel} pad: {kernel // 2} bias_term: false }} }}\n"
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of two convolutions with random weights, and its derived one: a residual split in the studies' manner."""
    folder = tmp_path_factory.mktemp("kernels") / "run"
    folder.mkdir()
    (folder / "net.prototxt").write_text(DATA + conv("first", "d", 6) + conv("second", "first", 8))
    rng = np.random.default_rng(0)
    weights = {"first": [rng.standard_normal((6, 3, 3, 3))], "second": [rng.standard_normal((8, 6, 3, 3))]}
    caffemodel.write_weights(
        folder / "w.caffemodel", {k: [b.astype(np.float32) for b in v] for k, v in weights.items()}
    )
    options = ["--layers", "first,second", "--partition", "random:0", "--init", "study", "--noise", 0, "--out", "d"]
    caffe_split("make-derived", "net.prototxt", "--weights", "w.caffemodel", *options, cwd=folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def derived(folder: Path) -> prototxt.Document:
    return prototxt.read(folder / "d/net.prototxt")


# -- mosaics


def test_a_tile_a_channel() -> None:
    weight = np.arange(2 * 4 * 2 * 3, dtype=float).reshape(2, 4, 2, 3)
    mosaic = kernel_mosaic("x", weight)
    assert (mosaic.kind, mosaic.kernels, mosaic.columns, mosaic.pitch) == ("weights", 2, 4, (3, 4))
    assert mosaic.image.shape == (2 * 3 - 1, 4 * 4 - 1)
    for kernel in range(2):
        for channel in range(4):
            y, x = kernel * 3, channel * 4
            assert np.array_equal(mosaic.image[y : y + 2, x : x + 3], weight[kernel, channel])
    # What is no weight is NaN, and nothing else is.
    assert np.isnan(mosaic.image).sum() == mosaic.image.size - weight.size


def test_one_dimensional_kernels_are_rows_of_pixels_and_three_dimensional_ones_unfolded() -> None:
    weight = np.arange(2 * 4 * 3, dtype=float).reshape(2, 4, 3)
    mosaic = kernel_mosaic("x", weight)
    assert mosaic.pitch == (2, 4) and np.array_equal(mosaic.image[2:3, 4:7], weight[1:2, 1])
    solid = kernel_mosaic("x", np.arange(2 * 4 * 5 * 3 * 2, dtype=float).reshape(2, 4, 5, 3, 2))
    assert solid.pitch == (6, 7)


def test_colours_norms_and_matrices() -> None:
    rng = np.random.default_rng(0)
    colour = rng.standard_normal((5, 3, 4, 4))
    mosaic = kernel_mosaic("x", colour)
    assert (mosaic.kind, mosaic.columns, mosaic.image.shape) == ("colour", 3, (9, 14, 3))
    assert np.array_equal(mosaic.image[5:9, 0:4], np.moveaxis(colour[3], 0, -1))
    assert kernel_mosaic("x", colour, "all").kind == "weights"
    norm = kernel_mosaic("x", colour, "norm")
    assert norm.kind == "norm" and norm.image[:4, 5:9] == pytest.approx(np.sqrt((colour[1] ** 2).sum(axis=0)))
    many = np.ones((MOST_TILES // 8 + 1, 8, 3, 3))
    assert kernel_mosaic("x", many).kind == "norm" and kernel_mosaic("x", many, "all").kind == "weights"
    assert kernel_mosaic("x", many[:-1]).kind == "weights"
    # One channel: a grid, not a column.
    assert kernel_mosaic("x", np.ones((9, 1, 3, 3))).image.shape == (11, 11)
    for shape in ((5, 7, 1, 1), (5, 7)):
        matrix = rng.standard_normal(shape)
        found = kernel_mosaic("x", matrix)
        assert found.kind == "matrix" and np.array_equal(found.image, matrix.reshape(5, 7))
    assert kernel_mosaic("x", np.ones((2, 3, 2, 3, 4)), "all").image.shape == (5, 3 * 13 - 1)


def test_one_scale_for_all() -> None:
    small, large = kernel_mosaic("a", np.full((2, 2, 3, 3), 0.5)), kernel_mosaic("b", np.full((2, 2, 3, 3), -4.0))
    assert largest([small, large], ("weights",)) == 4 and largest([small], ("norm",)) == 1
    figure = Figure(layout="constrained")
    draw_kernels(figure, [small, large], {})
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert [image.get_clim() for image in images] == [(-4, 4), (-4, 4)]
    # The bar of the scale stands once.
    assert len([axis for axis in figure.axes if axis.get_ylabel() == "weight"]) == 1
    figure = Figure(layout="constrained")
    draw_kernels(figure, [kernel_mosaic("z", np.zeros((2, 2, 3, 3)))], {})
    assert figure.axes[0].images[0].get_clim() == (-1, 1)


def test_colours_are_centred_on_grey() -> None:
    weight = np.zeros((1, 3, 2, 2))
    weight[0, :, 0, 0] = 2, -2, 0
    for bgr, expected in ((False, (1, 0, 0.5)), (True, (0.5, 0, 1))):
        figure = Figure(layout="constrained")
        draw_kernels(figure, [kernel_mosaic("x", weight)], {}, bgr)
        image = figure.axes[0].images[0].get_array()
        assert tuple(image[0, 0]) == expected and tuple(image[1, 1]) == (0.5, 0.5, 0.5)
        assert ("blue, green, red" if bgr else "red, green, blue") in figure.get_supxlabel()


# -- which layers


def test_a_split_layer_shows_its_parts(folder: Path) -> None:
    document = derived(folder)
    pre = "first_split2_residual_pre"
    assert shown_layers(document, "first") == ["first_split1", "first_split2", pre]
    assert shown_layers(document, "first_split2") == ["first_split2", pre]
    assert shown_layers(document, "first_split1") == ["first_split1"]
    assert shown_layers(document, pre) == [pre]


def test_residual_pre_as_the_studies_start_it(folder: Path) -> None:
    """-0.2 W, and +2 W more at the spatial centre: the tiles beside the slow half's."""
    slow, pre = mosaics(derived(folder), folder / "d/init.caffemodel", ["second_split2"])
    assert slow.pitch == pre.pitch == (4, 4) and slow.image.shape == pre.image.shape
    factor = np.full((3, 3), -0.2)
    factor[1, 1] += 2
    factors = np.tile(np.pad(factor, ((0, 1), (0, 1))), (slow.kernels, 6))[: slow.image.shape[0], : slow.image.shape[1]]
    tiles = ~np.isnan(slow.image)
    assert pre.image[tiles] == pytest.approx((factors * slow.image)[tiles], rel=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_a_row_is_a_kernel_whatever_axis_the_weights_have_first(tmp_path: Path, transpose: bool, legacy: bool) -> None:
    """Of a Deconvolution, with groups in each of them, and of an InnerProduct, whose old files have axes of 1."""
    (tmp_path / "net.prototxt").write_text(
        DATA.replace("dim: 3", "dim: 4") + 'layer { name: "up" type: "Deconvolution" bottom: "d" top: "up" '
        "convolution_param { num_output: 6 group: 2 kernel_size: 2 bias_term: false } }\n"
        'layer { name: "ip" type: "InnerProduct" bottom: "up" top: "ip" '
        f"inner_product_param {{ num_output: 5 transpose: {str(transpose).lower()} bias_term: false }} }}\n"
    )
    rng = np.random.default_rng(0)
    up, ip = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 2, 2), (5, 6 * 9 * 9)))
    stored = ip.T if transpose else ip
    path = tmp_path / "w.caffemodel"
    caffemodel.write_weights(path, {"up": [up], "ip": [stored[None, None] if legacy else stored]})
    of_up, of_ip = mosaics(prototxt.read(tmp_path / "net.prototxt"), path, ["up", "ip"])
    assert of_up.note == "6 kernels of 2x2x2, a row a kernel, a column a channel"
    for kernel in range(6):
        for channel in range(2):
            tile = of_up.image[kernel * 3 : kernel * 3 + 2, channel * 3 : channel * 3 + 2]
            assert np.array_equal(tile, up[kernel // 3 * 2 + channel, kernel % 3])
    assert of_ip.note == "5x486 matrix" and np.array_equal(of_ip.image, ip)


def test_titles_tell_the_roles(folder: Path) -> None:
    document = derived(folder)
    figure = Figure(layout="constrained")
    shown = mosaics(document, folder / "d/init.caffemodel", ["first"])
    draw_kernels(figure, shown, layer_roles(all_layers(document)))
    assert [axis.get_title().split("\n")[0] for axis in figure.axes] == [
        "first_split1 (fast)",
        "first_split2 (slow)",
        "first_split2_residual_pre (added)",
    ]
    assert figure.axes[0].get_title().endswith("3 kernels of 3x3x3")


# -- the command


def kernels(folder: Path, *words: object, status: int = 0) -> str:
    result = caffe_split("kernels", "d/net.prototxt", "d/init.caffemodel", *words, cwd=folder, status=status)
    return result.stdout if status == 0 else result.stderr


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_files(folder: Path, ending: str, start: bytes) -> None:
    assert kernels(folder, "--layer", "second", "--out", f"k.{ending}") == f"wrote k.{ending}\n"
    data = (folder / f"k.{ending}").read_bytes()
    assert data.startswith(start)
    if ending == "svg":
        kernels(folder, "--layer", "second", "--out", "k.svg", "--force")
        assert (folder / "k.svg").read_bytes() == data


def test_the_svg_holds_its_images_and_words(folder: Path) -> None:
    kernels(folder, "--layer", "first_split2", "--layer", "first_reorder", "--out", "k.svg")
    text = (folder / "k.svg").read_text()
    kernels(folder, "--layer", "first_split2, first_reorder", "--out", "k.svg", "--force")
    assert (folder / "k.svg").read_text() == text
    for words in ("first_split2 (slow)", "first_split2_residual_pre (added)", "first_reorder (added)", "6x6 matrix"):
        assert words in text
    links = re.findall(r'href="([^"]{1,30})', text)
    images = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    assert len(images) >= 3 and all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert matplotlib.image.imread(io.BytesIO(base64.b64decode(images[0]))).ndim == 3


REFUSED = [
    (["--layer", "third", "--out", "k.png"], 1, "no layer 'third' with kernels. Nearest of the 10 that have: first_"),
    (["--layer", "d", "--out", "k.png"], 1, "no layer 'd' with kernels"),
    (["--layer", "first", "--out", "k.jpg"], 1, "must end in .png, .svg, .pdf"),
    (["--layer", "first", "--out", "w.caffemodel"], 1, "must end in"),
    (["--layer", "first", "--out", "no/k.png"], 1, "no/k.png: there is no folder 'no'."),
    (["--layer", "first", "--out", "k.png", "--channels", "some"], 2, "--channels"),
    (["--out", "k.png"], 2, "--layer"),
]


@pytest.mark.parametrize(("words", "status", "said"), REFUSED)
def test_refused(folder: Path, words: list[str], status: int, said: str) -> None:
    assert said in kernels(folder, *words, status=status)
    assert not (folder / "k.png").exists()


def test_nothing_is_overwritten_and_weights_must_fit(folder: Path) -> None:
    (folder / "k.png").write_text("old")
    assert "k.png exists; nothing is overwritten unasked" in kernels(
        folder, "--layer", "first", "--out", "k.png", status=1
    )
    assert (folder / "k.png").read_text() == "old"
    result = caffe_split(
        "kernels", "d/net.prototxt", "w.caffemodel", "--layer", "first", "--out", "x.png", cwd=folder, status=1
    )
    assert "w.caffemodel: no weights of layer 'first_split1'" in result.stderr and result.stderr.count("\n") == 1


def test_a_layer_split_twice(folder: Path) -> None:
    options = ["--layers", "first_split1,first_split2,first_split2_residual_pre", "--partition", "random:0"]
    caffe_split("make-derived", "d/net.prototxt", "--weights", "d/init.caffemodel", *options, "--out", "d2", cwd=folder)
    document = prototxt.read(folder / "d2/net.prototxt")
    result = caffe_split(
        "kernels", "d2/net.prototxt", "d2/init.caffemodel", "--layer", "first", "--out", "k.png", cwd=folder, status=1
    )
    assert "'first' was split more than once; name one of its parts: first_split1_split1" in result.stderr
    assert len(shown_layers(document, "first_split2")) == 3
