"""TPM, the project's own layer, which watches the weight of another one."""

from __future__ import annotations

from caffe_split.layertypes.batch_rules import constant
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options, shape_of


def _tpm(layer: Layer, bottoms: list[Shape]) -> Found:
    """The layer's state: the watched weight, two copies, the results and the counters (layers/tpm_layer.hpp)."""
    param = Options.of(layer.message, "tpm_param")
    weight = shape_of(param.sub("shape"))
    windows, kernels = len(param.all("start_iter")), weight[0] if weight else 0
    state: list[Shape] = [weight, weight, weight, (windows, kernels + 1, 3), (windows + 1, 8)]
    return Found([()] * len(layer.tops), state=state)


RECORDS = (
    LayerType(
        "TPM",
        shapes=_tpm,
        options={"tpm_param": "start_iter stop_iter interval iter_size shape"},
        batch=constant,
        engine=Engine("tpm", (0, 0)),
    ),
)
