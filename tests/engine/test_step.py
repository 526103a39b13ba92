"""Small nets learn without autograd what they learn with it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.formats import prototxt
from tests.support import ROOT

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine import Solver
from caffe_split.engine.data.images import StoreReader
from caffe_split.engine.kernels import build
from caffe_split.engine.log import SilentLog
from caffe_split.engine.model import ops
from caffe_split.engine.model.kernel_ops import op_for
from caffe_split.engine.model.net import Net
from caffe_split.engine.model.step import Step
from caffe_split.errors import CaffeSplitError

pytestmark = pytest.mark.skipif(build.kernels().library is None, reason=build.kernels().why or "kernels")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def layer(name: str, kind: str, bottoms: str, tops: str = "", more: str = "") -> str:
    """One layer's text; several bottoms or tops have blanks between them."""
    wired = "".join(f' bottom: "{each}"' for each in bottoms.split())
    wired += "".join(f' top: "{each}"' for each in (tops or name).split())
    return f'layer {{ name: "{name}" type: "{kind}"{wired} {more} }}\n'


def conv(name: str, bottom: str, count: int, more: str = "kernel_size: 3 pad: 1", rest: str = "") -> str:
    filler = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 1 }'
    return layer(
        name, "Convolution", bottom, more=f"convolution_param {{ num_output: {count} {more} {filler} }} {rest}"
    )


DATA = layer("x", "Input", "", more="input_param { shape { dim: 4 dim: 3 dim: 9 dim: 7 } }") + layer(
    "y", "Input", "", more="input_param { shape { dim: 4 } }"
)
END = layer(
    "fc", "InnerProduct", "h", more='inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.2 } }'
) + layer("loss", "SoftmaxWithLoss", "fc y")
# The layers between the data and the last InnerProduct, from x to h.
NETS = {
    "one convolution": conv("h", "x", 4),
    "windows": conv("a", "x", 21, "kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2")
    + conv("b", "a", 17, "kernel_size: 2 dilation: 2")
    + conv("h", "b", 40, "kernel_size: 1 stride: 2 bias_term: false"),
    "a split": conv("a1", "x", 3)
    + conv("a2", "x", 2, rest="param { lr_mult: 0 }")
    + conv("d", "a2", 2, "kernel_size: 1")
    + layer("s", "Eltwise", "a2 d")
    + layer("c", "Concat", "s a1")
    + conv("o", "c", 5, "kernel_size: 1 bias_term: false", "param { lr_mult: 0 }")
    + layer("h", "ReLU", "o", "h"),
    "a sum": conv("a", "x", 4) + conv("b", "x", 4, "kernel_size: 1") + layer("h", "Eltwise", "a b"),
    "wide frames": conv("a", "x", 33, "kernel_size: 3 pad: 4")
    + conv("b", "a", 16, "kernel_size: 3 pad: 2 dilation: 3")
    + conv("c", "b", 48, "kernel_h: 1 kernel_w: 5 pad_w: 2")
    + conv("h", "c", 9, "kernel_size: 5 pad: 2 stride: 3"),
    "groups": conv("a", "x", 6) + conv("h", "a", 4, "kernel_size: 3 group: 2"),
    "over one axis": layer("a", "Reshape", "x", more="reshape_param { shape { dim: 4 dim: 3 dim: 63 } }")
    + conv("h", "a", 4, "kernel_size: 3"),
    "read by several": conv("a", "x", 4)
    + conv("b", "a", 4)
    + conv("c", "a", 4)
    + layer("h", "Eltwise", "a b c", more="eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }"),
    "a value twice": conv("a", "x", 4) + layer("h", "Eltwise", "a a", more="eltwise_param { operation: PROD }"),
    "in place": conv("a", "x", 4) + layer("b", "ReLU", "a", "a") + layer("s", "Sigmoid", "a", "h"),
    "concat and slice": conv("a", "x", 4)
    + layer("s", "Slice", "a", "s1 s2 s3", "slice_param { slice_point: 1 slice_point: 2 }")
    + layer("z", "Silence", "s2", "", "").replace(' top: "z"', "")
    + layer("h", "Concat", "s3 s1"),
    "norm": conv("a", "x", 4)
    + layer("n", "BatchNorm", "a")
    + layer("s", "Scale", "n", "n", "scale_param { bias_term: true }")
    + layer("r", "ReLU", "n", "n")
    + conv("b", "n", 4)
    + layer("m", "BatchNorm", "b", "b")
    + layer("e", "Eltwise", "n b", "h")
    + layer("q", "ReLU", "h", "h"),
    "norm beside a slice": conv("a", "x", 8)
    + layer("s", "Slice", "a", "s1 s2")
    + layer("z", "Silence", "s2", "", "").replace(' top: "z"', "")
    + conv("b", "x", 4)
    + layer("m", "BatchNorm", "b", "b")
    + layer("e", "Eltwise", "s1 b", "h")
    + layer("q", "ReLU", "h", "h"),
    "norm of rows": layer(
        "a",
        "InnerProduct",
        "x",
        more='inner_product_param { num_output: 6 weight_filler { type: "gaussian" std: 0.2 } }',
    )
    + layer("h", "BatchNorm", "a"),
    "norm with its own factor": conv("a", "x", 4)
    + layer("h", "BatchNorm", "a", more="batch_norm_param { scale_bias: true }"),
    "global norm": conv("a", "x", 4) + layer("n", "BatchNorm", "a", "h", "batch_norm_param { use_global_stats: true }"),
    "pools": conv("a", "x", 4)
    + layer("p", "Pooling", "a", more="pooling_param { kernel_size: 3 stride: 2 }")
    + layer("h", "Pooling", "p", more="pooling_param { pool: AVE global_pooling: true }"),
    "frozen": conv("a", "x", 4, rest="param { lr_mult: 0 } param { lr_mult: 0 }")
    + conv("b", "a", 4, rest="param { lr_mult: 0 } param { lr_mult: 1 }")
    + layer("n", "BatchNorm", "b")
    + layer("s", "Scale", "n", "h", "param { lr_mult: 0 }"),
    "no gradient": conv("a", "x", 4) + conv("b", "a", 4, rest="propagate_down: false") + layer("h", "TanH", "b"),
    "two losses": conv("h", "x", 4)
    + layer("w", "InnerProduct", "h", more='inner_product_param { num_output: 5 weight_filler { type: "xavier" } }')
    + layer("l2", "SoftmaxWithLoss", "w y", more="loss_weight: 0.3")
    + layer("acc", "Accuracy", "w y"),
    "ignored labels": conv("h", "x", 4)
    + layer("w", "InnerProduct", "h", more='inner_product_param { num_output: 5 weight_filler { type: "xavier" } }')
    + layer("l2", "SoftmaxWithLoss", "w y", more="loss_param { ignore_label: 2 }"),
}


def given(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(4, 3, 9, 7)), "y": rng.integers(0, 5, 4)}


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = ops._empty  # noqa: SLF001 - memory that nobody has written yet has to show
    monkeypatch.setattr(ops, "_empty", lambda shape: empty(shape).fill_(float("nan")))
    document = prototxt.parse(DATA + NETS[name] + END, kind="net")
    slow, fast = (Net(document, "TRAIN", seed=2, fuse=fuse) for fuse in (False, True))
    assert Step.fits(fast)
    # Two batches, as with iter_size, whose gradients add up.
    for seed in (0, 1):
        outputs = []
        for net in (slow, fast):
            net.forward(given(seed))
            outputs.append(net.learn())
        for blob, value in outputs[0].blobs.items():
            assert torch.allclose(outputs[1].blobs[blob], value.detach(), rtol=1e-4, atol=1e-5), blob
        assert float(outputs[1].loss) == pytest.approx(float(outputs[0].loss.detach()), rel=1e-5)
    some = False
    for one, other in zip(slow.params, fast.params):
        assert torch.allclose(one.values, other.values, rtol=1e-4, atol=1e-5), one
        assert (one.values.grad is None) == (other.values.grad is None), one
        if one.values.grad is not None:
            some = some or bool(one.values.grad.any())
            most = float(one.values.grad.abs().max())
            assert float((one.values.grad - other.values.grad).abs().max()) <= 1e-4 * most + 1e-6, one
    assert some


def test_a_sum_with_a_blob_that_is_copied_for_the_kernel() -> None:
    """The copy is as long as the numbers of the BatchNorm, which would take its memory if it were freed too early."""
    text = DATA.replace("dim: 4 dim: 3 dim: 9 dim: 7", "dim: 1 dim: 3 dim: 3 dim: 1").replace("dim: 4", "dim: 1")
    text += conv("a", "x", 3) + layer("b", "BatchNorm", "a") + layer("h", "Eltwise", "x b") + END
    document = prototxt.parse(text, kind="net")
    image = {"x": np.arange(9.0).reshape(1, 3, 3, 1), "y": np.zeros(1)}
    losses = []
    for fuse in (False, True):
        net = Net(document, "TRAIN", seed=2, fuse=fuse)
        net.forward(image)
        losses.append(float(net.learn().loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_label_that_is_no_class_is_named() -> None:
    net = Net(prototxt.parse(DATA + NETS["one convolution"] + END, kind="net"), "TRAIN", seed=2, fuse=True)
    for wrong in (5, -1):
        net.forward(given(0))
        net.layers[1].values[0][2] = wrong
        with pytest.raises(CaffeSplitError, match=f"a label is {wrong}, but bottom 'fc' scores the 5 classes"):
            net.learn()


def test_what_asks_for_autograd_gets_it() -> None:
    big = DATA.replace("dim: 4 dim: 3 dim: 9 dim: 7", "dim: 4 dim: 3 dim: 900 dim: 700")
    shared = conv("a", "x", 3, rest='param { name: "w" }') + conv("h", "a", 3, rest='param { name: "w" }')
    late = (
        conv("a", "x", 3) + layer("r", "ReLU", "a", "a") + layer("n", "BatchNorm", "a", "a") + layer("h", "TanH", "a")
    )
    learnt = layer("p", "Parameter", "", more="parameter_param { shape { dim: 4 dim: 3 dim: 9 dim: 7 } }")
    learnt += layer("h", "Eltwise", "x p")
    for head, middle in ((big, conv("h", "x", 64)), (DATA, shared), (DATA, late), (DATA, learnt)):
        assert not Step.fits(Net(prototxt.parse(head + middle + END, kind="net"), "TRAIN", fuse=True))
    plain = prototxt.parse(DATA + conv("h", "x", 3) + END, kind="net")
    assert not Step.fits(Net(plain, "TRAIN", fuse=True, precision="bf16"))


def test_the_usual_layers_call_kernels() -> None:
    document = prototxt.parse((ROOT / "prototxt/digits/train_val.prototxt").read_text(), kind="net")
    text = str(document)
    first = text.index("layer", text.index("batch_size: 400"))
    shapes = "input_param { shape { dim: 16 dim: 1 dim: 8 dim: 8 } shape { dim: 16 } }"
    text = layer("data", "Input", "", "data label", shapes) + text[first:]
    net = Net(prototxt.parse(text, kind="net"), "TRAIN", fuse=True)
    needs = [True, True]
    kinds = {type(op_for(call, net.shapes, needs[: len(call.bottoms)])).__name__ for call in net.calls if call.bottoms}
    assert kinds == {"Direct", "_Chain", "_Mean", "Product", "_Loss"}


def train(name: str, folder: Path, iterations: int, rate: float, fuse: bool, batch: int = 0) -> list[float]:
    """The losses of a baseline on random images, at a constant rate."""
    if not (folder / name).exists():
        shutil.copytree(ROOT / "prototxt" / name, folder / name)
        path = folder / name / "train_val.prototxt"
        text = path.read_text()
        size, channels = (8, 1) if name == "digits" else (40 if "crop_size" in text else 32, 3)
        rng = np.random.default_rng(0)
        for source in set(re.findall(r'source: "(.*?)"', text)):
            images = [(rng.integers(0, 256, (channels, size, size), dtype=np.uint8), each % 10) for each in range(64)]
            write_store(folder / source, images)
        path.write_text(re.sub(r"batch_size: \d+", f"batch_size: {batch}", text) if batch else text)
        for mean in set(re.findall(r'mean_file: "(.*?)"', text)):
            raise AssertionError(mean)
        (folder / "solver.prototxt").write_text(
            f'net: "{name}/train_val.prototxt" base_lr: {rate} lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 '
            f'max_iter: {iterations} snapshot_after_train: false random_seed: 3 snapshot_prefix: "{name}/s"'
        )
    solver = Solver("solver.prototxt", fuse=fuse, log=SilentLog())
    losses = []
    for _ in range(iterations):
        solver.step(1)
        losses.append(solver.loss.value)
    return losses


# At rates at which a change of the weights by a unit in the last place stays below 1e-4 for 50 iterations.
RATES = {"all_cnn_c_cifar10": 1e-5, "cifar10_quick": 1e-5}
BASELINES = [
    "digits",
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in ("all_cnn_c_cifar10", "cifar10_quick", "cifar10_quick_bn", "resnet20_cifar10", "resnet20_cifar100")
    ),
]


@pytest.mark.parametrize("name", BASELINES)
def test_fifty_iterations_are_those_of_the_reference(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    batch, rate = 0 if name == "digits" else 16, RATES.get(name, 1e-4)
    fast = train(name, tmp_path, 50, rate, fuse=True, batch=batch)
    # What Dropout draws depends on the layout of values, so that the reference, too, needs that of the fast path.
    drops = name == "all_cnn_c_cifar10"
    for each in (build.kernels, build.library):
        each.cache_clear()
    monkeypatch.setenv(build.SWITCH, "off")
    try:
        slow = train(name, tmp_path, 50, rate, fuse=drops, batch=batch)
    finally:
        for each in (build.kernels, build.library):
            each.cache_clear()
    assert np.allclose(fast, slow, rtol=1e-4, atol=1e-4)
    assert len(set(fast)) > 40


def test_a_small_store_is_read_once_and_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, 4, 4), dtype=np.uint8) for _ in range(7)]
    write_store(tmp_path / "lmdb", [(image, place) for place, image in enumerate(images)])
    kept, read = StoreReader(str(tmp_path / "lmdb")), StoreReader(str(tmp_path / "lmdb"))
    assert kept.stays
    read.stays = False
    for count, passed in ((3, 0), (2, 4), (9, 1), (1, 20), (5, 0)):
        found = [reader.read(count) for reader in (kept, read)]
        assert found[0][1].tolist() == found[1][1].tolist()
        for label, *values in zip(found[0][1], *(each[0] for each in found)):
            assert all(np.array_equal(value.load(), images[int(label)]) for value in values)
        for reader in (kept, read):
            reader.skip(passed)
