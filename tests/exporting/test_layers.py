"""Every layer type that the engine runs, exported and run by onnxruntime: it gives what the engine gives."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from caffe_split import CaffeSplitError
from caffe_split.engine.model.net import Net
from caffe_split.exporting.options import OLDEST_OPSET, ExportOptions
from caffe_split.exporting.table import CANNOT, EXPORTERS, left_out
from caffe_split.formats import prototxt
from caffe_split.formats.onnx.write import newest_opset
from caffe_split.layertypes.records import fork_data
from caffe_split.layertypes.table import RECORDS
from tests.engine.case import Case, layer
from tests.engine.cases import CASES
from tests.engine.fork_cases_more import JUDGED
from tests.exporting.judge import Arrays, compare, drawn, exported, run_engine, run_model

OPSETS = (OLDEST_OPSET, ExportOptions().opset, min(newest_opset(), 23))
GIVING = {"Input", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", *fork_data.NAMES}
# Of the layers of forks, those that a model does not have, and those that are judged by what they do in training.
FORKS = [
    name
    for name, judged in JUDGED.items()
    if not name.startswith(("smooth", "ps_roi", "detections", "multibox"))
    and name not in ("bn_running", "batch_norm_nvcaffe", "batch_norm_intel")
    and not left_out(judged.case.text.split('type: "')[1].split('"')[0])
    and judged.case.text.split('type: "')[1].split('"')[0] not in CANNOT
]


def made(name: str, seed: int) -> tuple[Case, np.random.Generator]:
    rng = np.random.default_rng([seed, *name.encode()])
    return CASES[name](rng), rng


def is_exported(name: str) -> bool:
    case, _ = made(name, 0)
    return not left_out(case.text.rpartition('type: "')[2].split('"')[0])


NAMES = [name for name in CASES if is_exported(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_gives_what_the_engine_gives(name: str, tmp_path: Path) -> None:
    """In one of the versions of operators, by its number; and at other sizes, where these may vary."""
    case, rng = made(name, 1)
    given, inputs = drawn(case, rng)
    opset = OPSETS[NAMES.index(name) % len(OPSETS)]
    model = exported(tmp_path, case.prototxt(), given, ExportOptions(opset))
    compare(model, run_model(model, inputs), run_engine(case.prototxt(), given, inputs))
    assert hold_at_other_sizes(tmp_path, case, given, inputs, opset) == refused(name)


# Cases that are refused where these sizes vary; all others have to hold there.
REFUSED = {
    "batch": "bias_bottom conv_axis_first lstm_ctpn lstm_unit lstm_unit_marks_of_any_value scale_bottom_bias",
    "batch, height, height width": "scale_bottom",
    "batch, height, width, height width": (
        "lstm lstm_ctpn_marks lstm_exposed lstm_marks_of_any_value lstm_one_step lstm_static "
        "lstm_static_exposed rnn rnn_one_step rnn_static rnn_static_exposed scale_all_axes"
    ),
    "height width": "flatten flatten_nothing reshape_middle",
    "height, height width": "argmax_axis argmax_equal_axis scale_two_axes slice",
    "height, width, height width": (
        "nd_convolution_drops_axes nd_pooling_of_all "
        "argmax argmax_equal argmax_values axpy inner inner_axis inner_no_bias inner_transpose interp_both "
        "interpolation local transformer transformer_shift "
        "interp_crop interp_one interp_shrink interp_size interp_zoom pool_ceil_mode pool_mask "
        "pool_mask_floor pool_mask_pad pool_mask_wide_pad pool_max_mask pool_max_mask_wide_pad priors "
        "priors_steps reorg reorg_back spp spp_ave spp_ave_three spp_one upsample upsample_pad_out"
    ),
    "width, height width": "inner_negative_axis",
}


def refused(name: str) -> str:
    return next((words for words, names in REFUSED.items() if name in names.split()), "")


# What varies, and by how many rows of the axis 0, 2 and 3.
VARIED = {("batch",): {0: 1}, ("height",): {2: 3}, ("width",): {3: 2}, ("height", "width"): {2: 3, 3: 2}}


def hold_at_other_sizes(folder: Path, case: Case, given: Arrays, inputs: Arrays, opset: int) -> str:
    """The model with sizes that vary gives what the engine gives at other ones.

    Returns the words of those for which the layer is refused, by name.
    """
    left_out = []
    for words, more in VARIED.items():
        try:
            model = exported(folder, case.prototxt(), given, ExportOptions(opset, words))
        except CaffeSplitError as error:
            if "layer 'l'" not in str(error):
                raise
            left_out.append(" ".join(words))
            continue
        longer = dict(inputs)
        for axis, rows in more.items():
            for key, array in longer.items():
                if array.ndim > axis and (axis == 0 or array.ndim == 4):
                    longer[key] = np.concatenate([array, array.take(range(rows), axis, mode="wrap")], axis)
        compare(model, run_model(model, longer), run_engine(case.prototxt(), given, longer))
    return ", ".join(left_out)


@pytest.mark.parametrize("name", FORKS)
def test_a_layer_of_a_fork_gives_what_its_definition_gives(name: str, tmp_path: Path) -> None:
    judged, rng = JUDGED[name], np.random.default_rng([*name.encode()])
    net = Net(prototxt.parse(judged.case.prototxt(), "net"), "TEST")
    inputs = {key: rng.normal(size=shape).astype(np.float32) * 2 for key, shape in judged.case.inputs.items()}
    inputs.update({key: np.asarray(array, np.float32) for key, array in (judged.bottoms or {}).items()})
    sizes = [tuple(blob.shape) for blob in net.layers[-1].blobs]
    blobs = [np.asarray(np.abs(rng.normal(size=size)) + 0.5, np.float32) for size in sizes]
    params = {f"param:l:{index}": blob for index, blob in enumerate(blobs)}
    # From version 22 on MaxRoiPool has no implementation in onnxruntime.
    opset = OLDEST_OPSET if name.startswith("roi") else OPSETS[FORKS.index(name) % len(OPSETS)]
    # GridSample is there from version 16 on.
    opset = max(opset, 16) if name.startswith("transformer") else opset
    model = exported(tmp_path, judged.case.prototxt(), params, ExportOptions(opset))
    wide = {key: array.astype(np.float64) for key, array in inputs.items()}
    expected = judged.judge(wide, [blob.astype(np.float64) for blob in blobs])
    compare(model, run_model(model, inputs), dict(zip(judged.case.tops, map(np.asarray, expected))))
    assert hold_at_other_sizes(tmp_path, judged.case, params, inputs, opset) == refused(name)


@pytest.mark.parametrize(
    ("keep", "least", "nms"), [(200, 0.2, "top_k: 5"), (4, 0.05, "top_k: 100"), (-1, 0.3, ""), (3, 2, "top_k: 5")]
)
def test_detections_are_those_of_the_engine(keep: int, least: float, nms: str, tmp_path: Path) -> None:
    """Of one image: other boxes near the prior ones, some that overlap, or none that counts."""
    rng = np.random.default_rng(keep + 2)
    corner = rng.uniform(0, 0.6, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (12, 2))], 1)
    prior = np.stack([boxes.reshape(-1), np.tile([0.1, 0.1, 0.2, 0.2], 12)])[None].astype(np.float32)
    scores = rng.dirichlet([0.5] * 4, 12).astype(np.float32).reshape(1, 48)
    inputs = {"x": rng.normal(size=(1, 48)).astype(np.float32), "c": scores, "p": prior}
    options = (
        f"detection_output_param {{ num_classes: 4 keep_top_k: {keep} confidence_threshold: {least} "
        f"code_type: CENTER_SIZE nms_param {{ nms_threshold: 0.3 {nms} }} }}"
    )
    case = Case(layer("DetectionOutput", "x c p", options=options), {key: a.shape for key, a in inputs.items()})
    model = exported(tmp_path, case.prototxt(), {})
    compare(model, run_model(model, inputs), run_engine(case.prototxt(), {}, inputs))


def test_each_type_that_the_engine_runs_is_expressed_or_said_not_to_be() -> None:
    run = {name for name, record in RECORDS.items() if record.engine and not left_out(name)}
    assert run - EXPORTERS.keys() - CANNOT.keys() == GIVING
    assert not EXPORTERS.keys() & CANNOT.keys()
    assert EXPORTERS.keys() | CANNOT.keys() <= RECORDS.keys()
