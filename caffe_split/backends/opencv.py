"""OpenCV's reader of Caffe models as a back end: for machines without a built Caffe.

It is also an independent witness: its reader and its arithmetic are not Caffe's. It runs deploy nets only, whose
input is an Input layer or `input` fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_split.backends.protocol import Backend, Forwarded, Forwarding, NetFiles, NotFoundError
from caffe_split.errors import CaffeSplitError
from caffe_split.net.state import TEST

if TYPE_CHECKING:
    import numpy as np

    from caffe_split.net.layers import Layer

INPUT_TYPES = ("Input",)


class OpenCV(Backend):
    """Deploy nets in `cv2.dnn`."""

    name = "opencv"
    title = "OpenCV"
    library = "OpenCV"
    module = "cv2"
    how_to_get = "pip install 'opencv-python-headless<5'"
    deploy_only = True

    def require(self) -> None:
        """See `Backend.require`; OpenCV 5 has no reader of Caffe's nets any more."""
        super().require()
        import cv2

        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise NotFoundError(f"OpenCV {cv2.__version__} does not read Caffe's nets any more: {self.how_to_get}")

    def forward(self, nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
        """See `Backend.forward`; nets with data layers, stages and the TRAIN phase are refused."""
        self.require()
        if how.state.phase != "TEST":
            raise CaffeSplitError("OpenCV runs the TEST phase only; --phase TRAIN needs the built Caffe, or PyTorch.")
        if how.state != TEST:
            raise CaffeSplitError("OpenCV knows no stages or levels; --stage and --level need the built Caffe.")
        return [_forward(net, how) for net in nets]


def _forward(files: NetFiles, how: Forwarding) -> Forwarded:
    import cv2
    import numpy as np

    from caffe_split.backends.compare import one_rounding
    from caffe_split.formats.prototxt.nets import read_net
    from caffe_split.net.layers import phase_layers
    from caffe_split.net.own_phase import as_in_training

    layers = phase_layers(read_net(files.net, upgrade=True), how.state)
    trained = [layer for layer in layers if as_in_training(layer)]
    if trained:
        raise CaffeSplitError(
            f"{files.net}: {trained[0].where} has a phase: TRAIN of its own, which OpenCV does not read; that needs "
            "the built Caffe, or PyTorch."
        )
    inputs = _inputs(files.net, layers, how)
    # A blob's value after its last in-place layer; layers without a top have none.
    writers = {top: layer.name for layer in layers if layer.type not in INPUT_TYPES for top in layer.tops}
    used = {bottom for layer in layers for bottom in layer.bottoms if bottom not in layer.tops}
    try:
        net = cv2.dnn.readNetFromCaffe(*map(str, files))
        net.enableFusion(False)
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        # OpenCV calls a layer by its top where that has a name of its own and no layer works in place on it.
        known = set(net.getLayerNames())
        asked = [name if name in known else blob for blob, name in writers.items()]
        rng, rounding = np.random.default_rng(how.seed), np.random.default_rng([how.seed, 1])
        batches = []
        for _ in range(how.batches):
            for name, given in inputs.items():
                values = given if isinstance(given, np.ndarray) else rng.standard_normal(given)
                values = values.astype(np.float32)
                net.setInput(one_rounding(values, rounding) if how.rounded else values, name)
            results = net.forward(asked)
            batches.append({blob: np.array(values) for blob, values in zip(writers, results)})
    except cv2.error as error:
        raise CaffeSplitError(f"OpenCV: {files.net}: {str(error).strip().splitlines()[-1]}") from error
    return Forwarded([blob for blob in writers if blob not in used], batches)


def _inputs(path: Path, layers: Sequence[Layer], how: Forwarding) -> dict[str, np.ndarray | tuple[int, ...]]:
    """The input blobs: the array given, or the shape to fill with noise."""
    from caffe_split.backends.compare import load_inputs
    from caffe_split.layertypes.shapes import infer_shapes

    sources = [layer for layer in layers if not layer.bottoms]
    strange = [layer for layer in sources if layer.type not in INPUT_TYPES]
    if strange or not sources:
        named = f"{strange[0].where} is a {strange[0].type} layer" if strange else "it has no input"
        raise CaffeSplitError(f"{path}: {named}; OpenCV runs deploy nets, with an Input layer, only. Give those.")
    shapes = {**infer_shapes(sources).blobs, **how.shapes}
    names = [top for layer in sources for top in layer.tops]
    if how.input_file is None:
        return {name: shapes[name] for name in names}
    given = load_inputs(how.input_file, names, path)
    return {name: given[name] if name in given else shapes[name] for name in names}
