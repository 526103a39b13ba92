"""Stochastic pooling, which Caffe has for CUDA only, against loops written from its definition, and frequencies."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.formats import prototxt

# Kernel 3x2, stride 2x3 over 6x7: the last windows reach past the image, as the number of windows is rounded up.
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 7 } } }
layer { name: "p" type: "Pooling" bottom: "x" top: "y"
  pooling_param { pool: STOCHASTIC kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 } }
"""


def windows(x: np.ndarray) -> list[tuple[tuple[int, int, int, int], np.ndarray]]:
    """(index in the top, values) of each window."""
    n, c, height, width = x.shape
    return [
        ((i, k, row, column), x[i, k, 2 * row : 2 * row + 3, 3 * column : 3 * column + 2])
        for i in range(n)
        for k in range(c)
        for row in range(-(-(height - 3) // 2) + 1)
        for column in range(-(-(width - 2) // 3) + 1)
    ]


@pytest.fixture
def x() -> np.ndarray:
    drawn = np.maximum(np.random.default_rng(3).normal(size=(2, 3, 6, 7)), 0).astype(np.float32)
    drawn[0, 0] = 0
    return drawn


def test_in_test_it_is_the_expectation_of_the_draws(x: np.ndarray) -> None:
    net = Net(prototxt.parse(NET, kind="net"), "TEST")
    y = net.forward({"x": x}).blobs["y"].numpy()
    assert y.shape == net.shapes["y"] == (2, 3, 3, 3)
    for place, values in windows(x):
        assert y[place] == pytest.approx((values**2).sum() / values.sum() if values.any() else 0, rel=1e-5)


def test_in_train_each_value_is_drawn_as_often_as_it_is_large(x: np.ndarray) -> None:
    net = Net(prototxt.parse(NET, kind="net"), "TRAIN")
    torch.manual_seed(1)
    draws = np.stack([net.forward({"x": x}).blobs["y"].numpy() for _ in range(600)])
    for place, values in windows(x):
        drawn = draws[(slice(None), *place)]
        assert set(np.unique(drawn)) <= {*values[values > 0].tolist(), *([] if values.any() else [0])}
        for value in np.unique(values[values > 0]):
            share = value / values.sum()
            spread = (share * (1 - share) / len(drawn)) ** 0.5
            assert abs((drawn == value).mean() - share) <= 4.5 * spread


def test_the_gradient_goes_to_the_value_that_was_drawn(x: np.ndarray) -> None:
    net = Net(prototxt.parse(NET, kind="net"), "TRAIN")
    given = torch.tensor(x + 1, requires_grad=True)
    y = net.forward({"x": given}).blobs["y"]
    y.backward(torch.full_like(y, 2.0))
    assert given.grad is not None and float(given.grad.sum()) == 2 * y.numel()
    assert torch.allclose((given.grad / 2 * given).sum(), y.sum(), rtol=1e-5)
    assert net.drops
