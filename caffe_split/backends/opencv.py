"""Run two deploy nets on the same input in OpenCV's reader of Caffe models: for machines without a built Caffe.

It is also an independent witness: its reader and its arithmetic are not Caffe's. It runs deploy nets only, whose
input is an Input layer or `input` fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffe_split.backends.caffe.forward import BlobDifference, compare_blobs, load_input
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.state import TEST, NetState

INPUT_TYPES = ("Input",)


def compare_nets(
    first: tuple[Path, Path],
    second: tuple[Path, Path],
    batches: int = 1,
    state: NetState = TEST,
    seed: int = 0,
    input_file: Path | None = None,
) -> list[BlobDifference]:
    """Forward two (deploy net, weights) pairs on the same input and compare all blobs that both have.

    The input is Gaussian noise, or the array of `input_file` (.npy, NCHW). Raises `CaffeSplitError` for a net with
    data layers and for what OpenCV refuses.
    """
    if state.phase != "TEST":
        raise CaffeSplitError("OpenCV runs the TEST phase only; --phase TRAIN needs the built Caffe, or PyTorch.")
    if state.stages or state.level:
        raise CaffeSplitError("OpenCV knows no stages or levels; --stage and --level need the built Caffe.")
    one, other = (_forward(*pair, batches, seed, input_file) for pair in (first, second))
    return compare_blobs(one, other)


def _forward(
    path: Path, weights: Path, batches: int, seed: int, input_file: Path | None
) -> tuple[list[str], list[dict[str, np.ndarray]]]:
    import cv2

    layers = phase_layers(read_net(path, upgrade=True), TEST)
    inputs = _inputs(path, layers, input_file)
    # A blob's value after its last in-place layer; layers without a top have none.
    writers = {top: layer.name for layer in layers if layer.type not in INPUT_TYPES for top in layer.tops}
    used = {bottom for layer in layers for bottom in layer.bottoms if bottom not in layer.tops}
    try:
        net = cv2.dnn.readNetFromCaffe(str(path), str(weights))
        net.enableFusion(False)
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        rng = np.random.default_rng(seed)
        runs = []
        for _ in range(batches):
            for name, given in inputs.items():
                values = given if isinstance(given, np.ndarray) else rng.standard_normal(given)
                net.setInput(values.astype(np.float32), name)
            results = net.forward(list(writers.values()))
            runs.append({blob: np.array(values) for blob, values in zip(writers, results)})
    except cv2.error as error:
        raise CaffeSplitError(f"OpenCV: {path}: {str(error).strip().splitlines()[-1]}") from error
    return [blob for blob in writers if blob not in used], runs


def _inputs(path: Path, layers: Sequence[Layer], input_file: Path | None) -> dict[str, np.ndarray | tuple[int, ...]]:
    """The input blobs: the array given, or the shape to fill with noise."""
    sources = [layer for layer in layers if not layer.bottoms]
    strange = [layer for layer in sources if layer.type not in INPUT_TYPES]
    if strange or not sources:
        named = f"{strange[0].where} is a {strange[0].type} layer" if strange else "it has no input"
        raise CaffeSplitError(f"{path}: {named}; OpenCV runs deploy nets, with an Input layer, only. Give those.")
    shapes = infer_shapes(sources).blobs
    names = [top for layer in sources for top in layer.tops]
    if input_file is None:
        return {name: shapes[name] for name in names}
    if len(names) != 1:
        raise CaffeSplitError(f"{path}: it has {len(names)} inputs, {', '.join(names)}; --input serves nets of one.")
    return {names[0]: load_input(input_file)}
