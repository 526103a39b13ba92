"""Layers of forks in training: what they draw, what they do to gradients, and what they carry on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.engine.case import Case, layer
from tests.engine.fork_cases_layers import MARKS, RNG
from tests.engine.fork_cases_more import JUDGED

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.engine.training.solver import Solver
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt


def built(case: Case) -> Net:
    return Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)


def only(kind: str, options: str, shape: tuple[int, ...], phase: str = "TRAIN") -> Net:
    return built(Case(layer(kind, options=options), {"x": shape}, phase=phase))


@pytest.mark.parametrize(
    ("options", "mean", "deviation"),
    [("gaussian_std: 2 bias: 3", 3, 2), ("uniform_range: 6", 0, 6 / math.sqrt(3))],
)
def test_noise_is_added_in_training(options: str, mean: float, deviation: float) -> None:
    x = np.ones((40, 500), np.float32)
    top = only("Noise", f"noise_param {{ {options} }}", x.shape).forward({"x": x}).blobs["y"].numpy() - x
    assert abs(top.mean() - mean) < 0.1 and abs(top.std() - deviation) < 0.1


@pytest.mark.parametrize("message", ["spatial_dropout_param", "dropout_param"])
def test_spatial_dropout_drops_whole_channels(message: str) -> None:
    """Forks differ in which message has the ratio."""
    x = np.ones((50, 20, 3, 2), np.float32)
    net = only("SpatialDropout", f"{message} {{ dropout_ratio: 0.3 }}", x.shape)
    top = net.forward({"x": x}).blobs["y"].numpy()
    assert (top == top[:, :, :1, :1]).all()
    assert np.unique(top).tolist() == [0, pytest.approx(1 / 0.7)]
    assert 0.25 < (top == 0).mean() < 0.35


@pytest.mark.parametrize(("iteration", "factor"), [(0, -0.5), (50, -(2 * 1.5 / (1 + math.exp(-2)) - 1)), (900, None)])
def test_a_gradient_is_turned_around_and_scaled(iteration: int, factor: float | None) -> None:
    options = "gradient_scaler_param { lower_bound: 0.5 upper_bound: 2 alpha: 4 max_iter: 100 }"
    net = only("GradientScaler", options, (2, 3))
    net.layers[-1].iteration = iteration
    x = torch.ones(2, 3, requires_grad=True)
    net.layers[-1].run(x)[0].sum().backward()
    wanted = -(2 * 1.5 / (1 + math.exp(-4)) - 1) if factor is None else factor
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-6)


def test_the_solver_says_how_many_iterations_are_done(tmp_path: Path) -> None:
    """The weight before the layer is learnt by a gradient times minus the coefficient of each iteration."""
    text = 'layer { name: "d" type: "DummyData" top: "x" '
    text += "dummy_data_param { shape { dim: 1 dim: 1 } data_filler { value: 1 } } }\n"
    text += layer("InnerProduct", "x", "f", "inner_product_param { num_output: 1 bias_term: false }")
    text += layer("GradientScaler", "f", "g", "gradient_scaler_param { alpha: 4 max_iter: 3 }").replace('"l"', '"s"')
    text += 'layer { name: "r" type: "Reduction" bottom: "g" top: "loss" loss_weight: 1 }\n'
    (tmp_path / "net.prototxt").write_text(text)
    solver = 'net: "net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 5 solver_mode: CPU\n'
    (tmp_path / "solver.prototxt").write_text(solver.replace("net.prototxt", str(tmp_path / "net.prototxt")))
    trained = Solver(str(tmp_path / "solver.prototxt"))
    for done in range(5):
        before = float(trained.net.params[0].values.detach())
        trained.step(1)
        share = min(1, done / 3)
        wanted = 2 / (1 + math.exp(-4 * share)) - 1
        assert float(trained.net.params[0].values.detach()) - before == pytest.approx(wanted, abs=1e-6)


def test_a_bias_is_added_to_the_score_of_the_label() -> None:
    options = "label_specific_add_param { bias: -0.5 }"
    x = np.array([[0.9, 0.2, 0.1], [0.7, 0.4, 0.8], [0.3, 0.6, 0.5]], np.float32)
    labels = np.array([0, 1, 2])
    for phase, wanted in (("TRAIN", [0.4, 0.4, 0.5]), ("TEST", [0.9, 0.4, 0.5])):
        case = Case(layer("LabelSpecificAdd", "x t", options=options), {"x": (3, 3), "t": (3,)}, phase=phase)
        top = built(case).forward({"x": x, "t": labels}).blobs["y"].numpy()
        np.testing.assert_allclose(top[range(3), labels], wanted, rtol=1e-6)
        assert (np.delete(top, [0, 4, 8]) == np.delete(x, [0, 4, 8])).all()


def test_lambda_falls_with_every_batch() -> None:
    options = "margin_inner_product_param { num_output: 2 base: 8 gamma: 1 power: 2 lambda_min: 0.4 iteration: 1 }"
    case = Case(layer("MarginInnerProduct", "x t", "y l", options), {"x": (2, 3), "t": (2,)}, ["y", "l"])
    net = built(case)
    found = [float(net.forward({"x": np.ones((2, 3))}).blobs["l"]) for _ in range(4)]
    np.testing.assert_allclose(found, [8 / 9, 8 / 16, 0.4, 0.4], rtol=1e-6)


@pytest.mark.parametrize("times", [2, 3, 4])
def test_the_sphere_has_the_gradients_of_its_published_code(times: int) -> None:
    """Of the weights without the margin; of the features' part through psi, divided by the length of its factors."""
    word = ["DOUBLE", "TRIPLE", "QUADRUPLE"][times - 2]
    options = f"margin_inner_product_param {{ num_output: 4 type: {word} base: 3 }}"
    case = Case(layer("MarginInnerProduct", "x t", "y l", options), {"x": (8, 3), "t": (8,)}, ["y", "l"])
    one = built(case).layers[-1]
    x, gradient, labels = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 4)), np.arange(8) % 4
    weight = RNG.normal(size=(4, 3))
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    one.blobs = [torch.tensor(weight, requires_grad=True)]
    given = torch.tensor(x, requires_grad=True)
    one.run(given, torch.tensor(labels))[0].backward(torch.tensor(gradient))
    of_x = np.zeros_like(x)
    for n, j in np.ndindex(8, 4):
        if j != labels[n]:
            of_x[n] += gradient[n, j] * weight[j]
            continue
        length = np.linalg.norm(x[n])
        angle = math.acos(x[n] @ weight[j] / length)
        k = math.floor(times * angle / math.pi)
        psi = (-1) ** k * math.cos(times * angle) - 2 * k
        slope = (-1) ** k * times * math.sin(times * angle) / math.sin(angle)
        along, back = slope, (psi - math.cos(angle) * slope) / length
        part = (along * weight[j] + back * x[n]) / math.hypot(along, back)
        of_x[n] += gradient[n, j] * (3 * weight[j] + part) / 4
    np.testing.assert_allclose(given.grad.numpy(), of_x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.blobs[0].grad.numpy(), gradient.T @ x, rtol=1e-9, atol=1e-12)


def test_the_sphere_keeps_its_weights_at_length_1() -> None:
    options = "margin_inner_product_param { num_output: 4 weight_filler { type: 'gaussian' std: 3 } }"
    case = Case(layer("MarginInnerProduct", "x t", "y l", options), {"x": (2, 3), "t": (2,)}, ["y", "l"])
    net = built(case)
    net.forward({"x": np.ones((2, 3))})
    np.testing.assert_allclose(net.layers[-1].blobs[0].detach().norm(dim=1).numpy(), 1, rtol=1e-6)


@pytest.mark.parametrize("marks", [False, True])
def test_the_gradient_of_the_gates_is_limited(marks: bool) -> None:
    """One step: the bias's gradient is that of the gates, each limited, added up over the streams."""
    text = layer("Lstm", "x m" if marks else "x", options="lstm_param { num_output: 2 clipping_threshold: 0.02 }")
    one = built(Case(text, {"x": (1, 3, 2), "m": (1, 3)})).layers[-1]
    one.blobs = [torch.tensor(RNG.normal(size=blob.shape), requires_grad=True) for blob in one.blobs]
    x = RNG.normal(size=(1, 3, 2))
    one.run(torch.tensor(x), *[torch.zeros(1, 3)] * marks)[0].sum().backward()
    weight, _, bias = (blob.detach().numpy() for blob in one.blobs)
    i, _, o, g = np.split(x[0] @ weight.T + bias, 4, 1)
    i, o, g = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-o)), np.tanh(g)
    squashed = np.tanh(i * g)
    cells = o * (1 - squashed**2)
    gates = [cells * g * i * (1 - i), 0 * i, squashed * o * (1 - o), cells * i * (1 - g**2)]
    wanted = np.concatenate(gates, 1)
    assert (abs(wanted) > 0.02).any()
    np.testing.assert_allclose(one.blobs[2].grad.numpy(), wanted.clip(-0.02, 0.02).sum(0), rtol=1e-9, atol=1e-15)


def test_the_state_of_an_lstm_goes_on_where_marks_say_so() -> None:
    case = Case(layer("Lstm", "x m", options="lstm_param { num_output: 3 }"), {"x": (4, 2, 2), "m": (4, 2)})
    net = built(case)
    with torch.no_grad():
        for blob in net.layers[-1].blobs:
            blob.copy_(torch.tensor(RNG.normal(size=blob.shape)))
    x, marks = RNG.normal(size=(8, 2, 2)), np.concatenate([MARKS, 1 - MARKS])
    halves = [net.forward({"x": x[k : k + 4], "m": marks[k : k + 4]}).blobs["y"].detach().numpy() for k in (0, 4)]
    whole = built(Case(case.text, {"x": (8, 2, 2), "m": (8, 2)}))
    with torch.no_grad():
        for blob, other in zip(whole.layers[-1].blobs, net.layers[-1].blobs):
            blob.copy_(other)
    np.testing.assert_allclose(
        np.concatenate(halves), whole.forward({"x": x, "m": marks}).blobs["y"].detach().numpy(), atol=1e-6
    )


def test_a_place_without_a_flow_may_be_no_number() -> None:
    case = Case(
        layer("FlowWarp", "x f", options="flow_warp_param { fill_value: NOT_A_NUMBER }"),
        {"x": (1, 1, 2, 3), "f": (1, 2, 2, 3)},
    )
    x, flow = np.arange(6.0).reshape(1, 1, 2, 3), np.zeros((1, 2, 2, 3))
    flow[0, 0, 0, 0], flow[0, 1, 1, 1] = -1, 0.5
    top = built(case).forward({"x": x, "f": flow}).blobs["y"].numpy()[0, 0]
    assert math.isnan(top[0, 0])
    assert top.ravel()[1:].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["FcRistretto", "ConvolutionRistretto"])
def test_weights_of_few_bits_are_rounded_at_random_in_training(kind: str) -> None:
    """0.3 is 0.25 or 0.5 with 2 bits behind the point, 0.3 on average; and its gradient is that of the rounded one."""
    options = {
        "FcRistretto": "inner_product_param { num_output: 2000 bias_term: false weight_filler { value: 0.3 } }",
        "ConvolutionRistretto": "convolution_param { num_output: 2000 kernel_size: 1 bias_term: false "
        "weight_filler { value: 0.3 } }",
    }[kind]
    bits = "quantization_param { bw_params: 4 fl_params: 2 bw_layer_in: 2 fl_layer_in: 0 bw_layer_out: 2 }"
    net = only(kind, f"{options} {bits}", (1, 1, 1, 1))
    x = torch.full((1, 1, 1, 1), 0.7, requires_grad=True)
    weight = net.layers[-1].blobs[0].requires_grad_()
    (top,) = net.layers[-1].run(x)
    found = top.detach().numpy().ravel() / np.float32(0.7)
    assert np.unique(found.round(5)).tolist() == [0.25, 0.5] and abs(found.mean() - 0.3) < 0.02
    top.sum().backward()
    np.testing.assert_allclose(weight.grad.numpy().ravel(), 0.7, rtol=1e-6)
    np.testing.assert_allclose(float(x.grad), found.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
        ("Permute", "permute_param { }"),
        ("Transpose", "transpose_param { dim: 0 dim: 1 dim: 2 dim: 3 }"),
        ("ShuffleChannel", "shuffle_channel_param { group: 1 }"),
        ("Reorg", "reorg_param { stride: 1 }"),
        ("PixelShuffle", "pixel_shuffle_param { upscale_factor: 1 }"),
        ("Tiling", "tiling_param { tile_dim: 1 }"),
    ],
)
def test_a_relu_behind_what_moves_nothing_leaves_its_bottom_whole(kind: str, options: str) -> None:
    """Where the order in memory stays, such a top would be the memory of its bottom."""
    text = layer("Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 1 }").replace('"l"', '"c"')
    text += layer(kind, "c", "p", options) + layer("ReLU", "p", "p").replace('"l"', '"r"')
    text += layer("Power", "c", "y").replace('"l"', '"n"')
    net = Net(prototxt.parse(Case(text, {"x": (2, 3, 4, 5)}).prototxt(), "net"), "TRAIN", fuse=True, seed=1)
    with torch.no_grad():
        net.layers[1].blobs[0].copy_(torch.tensor(RNG.normal(size=(4, 3, 1, 1))))
    assert float(net.forward({"x": RNG.normal(size=(2, 3, 4, 5))}).blobs["y"].detach().min()) < 0


@pytest.mark.parametrize("kind", ["FlowWarp", "DeformableConvolution", "SpatialTransformer"])
def test_a_place_that_is_no_number_lies_outside(kind: str) -> None:
    options = "deformable_convolution_param { num_output: 1 kernel_size: 1 weight_filler { value: 1 } }"
    shape = (1, 6) if kind == "SpatialTransformer" else (1, 2, 2, 3)
    text = layer(kind, "x f", options=options if kind == "DeformableConvolution" else "")
    net = built(Case(text, {"x": (1, 1, 2, 3), "f": shape}))
    places = np.zeros(shape)
    places.flat[0] = np.nan
    x = torch.ones(1, 1, 2, 3, requires_grad=True)
    top = net.forward({"x": x, "f": places}).blobs["y"]
    assert float(top.detach().flatten()[0]) == 0 and not top.isnan().any()
    top.sum().backward()
    assert not x.grad.isnan().any()


@pytest.mark.parametrize(
    "name", ["margin_large", "margin_sphere", "resample_larger", "downsample", "local", "deformable", "mean_field"]
)
def test_layers_in_float32_stay_so_under_bf16(name: str) -> None:
    judged = JUDGED[name]
    tops = []
    for precision in ("fp32", "bf16"):
        net = Net(prototxt.parse(judged.case.prototxt(), "net"), "TRAIN", precision=precision, seed=1)
        rng = np.random.default_rng(3)
        given = {key: rng.normal(size=shape) for key, shape in judged.case.inputs.items()} | (judged.bottoms or {})
        with torch.no_grad():
            for blob in net.layers[-1].blobs:
                blob.copy_(torch.tensor(rng.normal(size=blob.shape)))
        tops.append(net.forward(given).blobs["y"].detach().numpy())
    np.testing.assert_array_equal(*tops)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_the_weights_of_an_inner_product_are_divided_by_their_length(phase: str) -> None:
    """In both phases, in TRAIN for good."""
    options = "inner_product_param { num_output: 4 bias_term: false normalize: true }"
    text = layer("InnerProduct", "x", "s", options)
    text += layer("SoftmaxWithLoss", "s t", "y").replace('"l"', '"e"')
    x, weight = (RNG.normal(size=(rows, 3)).astype(np.float32) * 3 for rows in (8, 4))
    net = built(Case(text, {"x": (8, 3), "t": (8,)}, phase=phase))
    net.load({"l": [weight]}, "w")
    found = net.forward({"x": x, "t": np.zeros(8)}, keep=True).blobs["s"].detach().numpy()
    unit = weight / np.sqrt((weight**2).sum(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, x @ unit.T, rtol=1e-5, atol=1e-5)
    kept = next(each for each in net.layers if each.name == "l").blobs[0].detach().numpy()
    np.testing.assert_allclose(kept, unit if phase == "TRAIN" else weight, rtol=1e-5)


@pytest.mark.parametrize("fields", ["normalize: true", "normalize: false"])
def test_a_training_divides_them_too(fields: str, tmp_path: Path) -> None:
    """Small products have a kernel of their own in trainings, which knows nothing of lengths."""
    text = 'layer { name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param { shape { dim: 4 dim: 3 } '
    text += 'shape { dim: 4 } data_filler { type: "gaussian" } data_filler { value: 1 } } }\n'
    options = f"inner_product_param {{ num_output: 2 {fields} weight_filler {{ value: 5 }} }}"
    text += layer("InnerProduct", "x", "s", options) + layer("SoftmaxWithLoss", "s t", "y").replace('"l"', '"e"')
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "s.prototxt").write_text(f'net: "{tmp_path}/net.prototxt" base_lr: 0 lr_policy: "fixed" max_iter: 1')
    solver = Solver(str(tmp_path / "s.prototxt"))
    solver.step(1)
    lengths = solver.net.params[0].values.detach().norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, 1 if "true" in fields else 5 * math.sqrt(3), rtol=1e-5)


def test_lambda_is_counted_once_where_its_bottom_is_overwritten() -> None:
    """The layer is not run again for its gradient: it is refused."""
    text = layer("InnerProduct", "x", "f", "inner_product_param { num_output: 3 }").replace('"l"', '"f"')
    text += layer("Split", "f", "a b").replace('"l"', '"s"')
    options = "margin_inner_product_param { num_output: 2 type: DOUBLE }"
    text += layer("MarginInnerProduct", "a t", "y l", options) + layer("ReLU", "b", "b").replace('"l"', '"r"')
    case = Case(text, {"x": (2, 3), "t": (2,)})
    with pytest.raises(CaffeSplitError, match="'r' in place overwrites what its gradient needs"):
        built(case)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("MarginInnerProduct", "margin_inner_product_param { num_output: 3 type: DOUBLE }"),
        ("LargeMarginInnerProduct", "largemargin_inner_product_param { num_output: 3 }"),
        ("LabelSpecificAdd", "label_specific_add_param { bias: 1 }"),
    ],
)
def test_a_label_that_is_no_class_is_named(kind: str, options: str, label: int) -> None:
    net = built(Case(layer(kind, "x t", options=options), {"x": (2, 3), "t": (2,)}))
    with pytest.raises(CaffeSplitError, match=f"layer 'l'.*a label of 't' is {label}; its classes are 0 to 2"):
        net.forward({"x": np.ones((2, 3)), "t": np.array([0, label])})
