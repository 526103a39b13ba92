"""Verify tells rounding from error in nets that multiply any difference; and comparisons that would show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.backends.choose import get_backend
from caffe_split.backends.compare import HOPELESS, ROUNDINGS, compare_nets, one_rounding
from caffe_split.backends.protocol import Backend, Forwarded, Forwarding, NetFiles
from tests.support import caffe_split

ENGINES = ["torch", "opencv", pytest.param("caffe", marks=pytest.mark.caffe)]
INPUT = (
    'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {} dim: 3 dim: 8 dim: 8 }} }} }}\n'
)
DEPTH = 20


def deep(folder: Path, depth: int = DEPTH) -> None:
    """A chain of convolutions and TanH whose kernels are so large that a difference grows with every layer.

    Layer by layer the difference of one rounding grows to a few times 1e-4 of the blob's size behind 20 layers.
    """
    rng = np.random.default_rng(3)
    text, weights, bottom, channels = INPUT.format(2), {}, "data", 3
    for number in range(depth):
        text += (
            f'layer {{ name: "c{number}" type: "Convolution" bottom: "{bottom}" top: "c{number}" convolution_param {{ '
            f"num_output: 16 kernel_size: 3 pad: 1 }} }}\n"
            f'layer {{ name: "t{number}" type: "TanH" bottom: "c{number}" top: "t{number}" }}\n'
        )
        scale = 2 * np.sqrt(2 / (9 * channels))
        weights[f"c{number}"] = [scale * rng.standard_normal((16, channels, 3, 3)), 0.1 * rng.standard_normal(16)]
        bottom, channels = f"t{number}", 16
    (folder / "n.prototxt").write_text(text)
    cs.write_weights(folder / "n.caffemodel", weights)


def derive(folder: Path, *layers: str) -> None:
    cs.derive(
        cs.open_training(folder / "n.prototxt"),
        weights=folder / "n.caffemodel",
        layers=layers,
        options=cs.DeriveOptions(partition="random:0"),
        out=folder / "d",
    ).write()


def verify(folder: Path, engine: str, **options: object) -> cs.Verification:
    given = cs.VerifyOptions(engine=engine, **options)  # type: ignore[arg-type]
    return cs.verify(
        folder / "n.prototxt", folder / "d/n.prototxt", baseline_weights=folder / "n.caffemodel", options=given
    )


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if not get_backend(request.param).is_there():
        pytest.skip(get_backend(request.param).how_to_get)
    return str(request.param)


def test_rounding_past_the_tolerance_is_told_from_an_error(tmp_path: Path, engine: str) -> None:
    deep(tmp_path)
    derive(tmp_path, "c1", "c6", "c11")
    result = verify(tmp_path, engine)
    assert result.worst > result.tolerance and result.passed
    assert "same function, to rounding: blob '" in result.verdict()
    assert "times what one rounding of the input alone does to it" in result.verdict()
    last = next(row for row in result.rows if row.blob == f"t{DEPTH - 1}")
    assert last.rounding is not None and 3e-5 < last.rounding < 1e-3
    assert all(row.times is not None and row.times < ROUNDINGS for row in result.rows if row.relative > 1e-5)

    start = cs.read_weights(tmp_path / "d/init.caffemodel")
    for name in ("c0", "c6_split1", "c9", "c15", f"c{DEPTH - 1}"):
        wrong = {layer: [np.array(blob) for blob in start[layer]] for layer in start}
        wrong[name][0][3, 1, 1, 1] += 1e-3
        cs.write_weights(tmp_path / "d/init.caffemodel", wrong)
        found = verify(tmp_path, engine)
        assert not found.passed, name
        assert "the first, differs by" in found.verdict() and "one rounding of the input alone" in found.verdict()


def test_a_net_that_rounding_alone_takes_apart_shows_nothing(tmp_path: Path, any_backend: str) -> None:
    deep(tmp_path, depth=42)
    derive(tmp_path, "c1")
    result = verify(tmp_path, any_backend)
    assert not result.passed and "NOT shown to be the same function: blob" in result.verdict()
    assert "the net multiplies any difference, and nothing can be shown from there on" in result.verdict()
    row = result.rows[-1]
    assert row.rounding is not None and row.rounding > HOPELESS and row.is_rounding and not row.passes(1e-4)


class _Counted(Backend):
    """A back end whose nets give ones and what their names say, and that counts its forwards."""

    name = title = library = module = how_to_get = "counted"

    def __init__(self, values: dict[str, float], size: int) -> None:
        self.values, self.size = values, size
        self.forwards: list[list[str]] = []

    def forward(self, nets: list[NetFiles], how: Forwarding) -> list[Forwarded]:  # type: ignore[override]
        self.forwards.append([str(net.net) + ("*" if how.rounded else "") for net in nets])
        return [
            Forwarded(["few"], [{"x": np.full((1, 1, 20), 1 + self.values[name], np.float32), "few": self.few(name)}])
            for name in self.forwards[-1]
        ]

    def few(self, name: str) -> np.ndarray:
        # A loss that rounding happens not to move.
        return np.float32([1.0 if "*" in name else 1 + self.values[name]])


@pytest.mark.parametrize(
    ("values", "count", "passed"),
    [
        ({"a": 0.0, "b": 1e-5}, 1, True),  # within the tolerance
        ({"a": 0.0, "b": 1e-3, "a*": 3e-4}, 2, True),
        ({"a": 0.0, "b": 1e-3, "a*": 2e-4}, 2, False),
        ({"a": 0.0, "b": 1e-3, "a*": 0.0}, 2, False),
        ({"a": 0.0, "b": 2e-2, "a*": 2e-2}, 2, False),  # hopeless
        ({"a": 0.0, "b": np.nan}, 1, False),  # nothing that rounding could explain
    ],
)
def test_the_baseline_is_forwarded_once_more_only_where_it_can_decide(
    values: dict[str, float], count: int, passed: bool
) -> None:
    backend = _Counted(values, 20)
    files = [NetFiles(Path(name), Path("w")) for name in ("a", "b")]
    rows = compare_nets(backend, *files, Forwarding(), tolerance=1e-4)
    assert len(backend.forwards) == count
    assert [row.passes(1e-4) for row in rows] == [passed, passed]
    assert all((row.rounding is not None) == (count == 2) for row in rows)


def test_one_rounding_moves_half_of_the_values_by_a_unit_away_from_zero() -> None:
    values = np.float32([0, 1, -1, 3, 255, 1e-20, -7.5] * 200)
    changed = one_rounding(values, np.random.default_rng(0))
    assert changed.dtype == np.float32 and np.array_equal(changed.astype(int), values.astype(int))
    moved = changed != values
    assert 0.3 < moved.mean() < 0.6 and not moved[values == 0].any()
    assert np.array_equal(np.abs(changed[moved]), np.nextafter(np.abs(values[moved]), np.float32(np.inf)))


def write(folder: Path, text: str, weights: dict[str, list[np.ndarray]], name: str = "n") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.prototxt").write_text(text)
    cs.write_weights(
        folder / ("init.caffemodel" if name == "n" and folder.name == "d" else f"{name}.caffemodel"), weights
    )


CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
    "convolution_param { num_output: 2 kernel_size: 1 } }\n"
)
WEIGHTS = {"c": [np.ones((2, 3, 1, 1)), np.ones(2)]}


def test_deploy_nets_of_other_batch_sizes_are_given_the_baselines(tmp_path: Path, engine: str) -> None:
    write(tmp_path, INPUT.format(4) + CONV, WEIGHTS)
    write(tmp_path / "d", INPUT.format(1) + CONV, WEIGHTS)
    assert verify(tmp_path, engine).worst < 1e-6
    write(tmp_path / "d", INPUT.format(1).replace("dim: 8", "dim: 9") + CONV, WEIGHTS)
    with pytest.raises(cs.CaffeSplitError, match=r"input 'data' has shape \(4, 3, 8, 8\) in .*--input FILE.npy"):
        verify(tmp_path, engine)


def test_what_shows_nothing_is_said(tmp_path: Path, any_backend: str) -> None:
    """Nets that share their inputs alone, blobs that are all 0, and values that are not finite in either net."""
    silent = 'layer { name: "s" type: "Silence" bottom: "TOP" }\n'
    write(tmp_path, INPUT.format(2) + CONV + silent.replace("TOP", "c"), WEIGHTS)
    other = CONV.replace('top: "c"', 'top: "e"') + silent.replace("TOP", "e")
    write(tmp_path / "d", INPUT.format(2) + other, WEIGHTS)
    with pytest.raises(cs.CaffeSplitError, match="share only data, which they are given; there is nothing to compare"):
        verify(tmp_path, any_backend)
    zeros = {"c": [np.zeros((2, 3, 1, 1)), np.zeros(2)]}
    write(tmp_path, INPUT.format(2) + CONV, zeros)
    write(tmp_path / "d", INPUT.format(2) + CONV, zeros)
    with pytest.raises(cs.CaffeSplitError, match="all 1 blobs that they compute are 0, which shows nothing"):
        verify(tmp_path, any_backend)
    log = 'layer { name: "l" type: "Log" bottom: "c" top: "l" }\n'
    for folder in (tmp_path, tmp_path / "d"):
        write(folder, INPUT.format(2) + CONV + log, {"c": [WEIGHTS["c"][0], np.zeros(2)]})
    result = verify(tmp_path, any_backend)
    assert not result.passed
    assert "NOT the same function: blob 'l' cannot be compared (nan or infinity: " in result.verdict()


def test_verify_takes_solvers_with_their_stages(tmp_path: Path, any_backend: str) -> None:
    staged = INPUT.format(2) + CONV.replace("convolution_param", 'include { stage: "big" } convolution_param')
    write(tmp_path, staged, WEIGHTS)
    for folder in (tmp_path, tmp_path / "d"):
        write(folder, staged, WEIGHTS)
        (folder / "s.prototxt").write_text(
            f'net: "{folder}/n.prototxt" test_state {{ stage: "big" }} test_iter: 1 test_interval: 9 base_lr: 1 '
            f'lr_policy: "fixed"'
        )
    arguments = ("verify", "s.prototxt", "d/s.prototxt", "--baseline-weights", "n.caffemodel", "--engine", any_backend)
    assert "c " in caffe_split(*arguments, cwd=tmp_path).stdout
