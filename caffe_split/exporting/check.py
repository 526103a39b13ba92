"""Does an ONNX model compute what its net does? onnxruntime runs the model, a back end the net, on the same input."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_split.backends.choose import choose_backend, get_backend
from caffe_split.backends.compare import BlobDifference, compare_nets
from caffe_split.backends.inputs import drawn_input, write_inputs
from caffe_split.backends.protocol import Backend, Forwarded, Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError
from caffe_split.exporting.options import CheckOptions
from caffe_split.files import scratch, write_atomic
from caffe_split.layertypes.shape_rules import Shape
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import Layer, all_layers, phase_layers

if TYPE_CHECKING:
    from caffe_split.exporting.make import ExportPlan

# A relative difference that passes, of a model in float32 and in float16.
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2


@dataclass
class _Both(Backend):
    """A net in a back end and its model in onnxruntime, as if one back end ran both: the second net is the model."""

    inner: Backend
    session: Any
    # Outputs of the model, each with the net's blob that it is.
    outputs: Mapping[str, str]
    # What the model is given; the net is given it transformed.
    given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def forward(self, nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
        """See `Backend.forward`; only the model's outputs are kept."""
        (net,) = self.inner.forward(nets[:1], how)
        kept = [{name: batch[blob] for name, blob in self.outputs.items()} for batch in net.batches]
        found = [Forwarded(list(self.outputs), kept)]
        if len(nets) > 1:
            try:
                made = self.session.run(list(self.outputs), dict(self.given))
            except Exception as error:  # see `_session`
                sizes = ", ".join(f"{name} {'x'.join(map(str, each.shape))}" for name, each in self.given.items())
                raise CaffeSplitError(
                    f"{nets[1].net}: onnxruntime cannot run the model for {sizes}: {' '.join(str(error).split())}. "
                    "Nothing was written; this is a fault of the export: with fewer --dynamic it may not show."
                ) from None
            values = {name: np.asarray(value, np.float32) for name, value in zip(self.outputs, made)}
            found.append(Forwarded(list(self.outputs), [values]))
        return found


def require_runtime() -> Any:
    """The package onnxruntime. Raises `CaffeSplitError` where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise CaffeSplitError(
            "the check runs the model in onnxruntime, which is not in this environment: pip install "
            "onnxruntime, or --check 0 to write it unchecked"
        )
    import onnxruntime

    return onnxruntime


def check_model(plan: ExportPlan, place: str, external: bool, how: CheckOptions) -> list[str]:
    """Compare a model in the file `place` with its net; a sentence per input with the largest difference.

    Before them, a sentence says so where the built Caffe does not have the net's layers, and the torch engine runs it.

    The first input has the net's own sizes, the others take turns with the sizes that may vary. Raises
    `CaffeSplitError` where an output differs by more than the tolerance and than rounding makes of it.
    """
    runtime = require_runtime()
    inner, why = _judge(plan, how.engine)
    tolerance = how.tolerance
    if tolerance is None:
        tolerance = HALF_TOLERANCE if plan.options.half else TOLERANCE
    session = _session(runtime, plan, place, external)
    outputs = {each.name: plan.renamed.get(each.name, each.name) for each in plan.model.graph.outputs}
    found = [why] if why else []
    turns = plan.sizes.inputs
    for number in range(max(how.count, len(turns) if how.count else 0)):
        shapes = turns[number % len(turns)]
        both = _Both(inner, session, outputs)
        rows = _compare(plan, both, shapes, how.seed + number, tolerance)
        found.append(_verdict(rows, tolerance, shapes, inner.title, plan))
    return found


def _judge(plan: ExportPlan, asked: str | None) -> tuple[Backend, str]:
    """What runs the net, and a sentence on it: the back end that was asked for, else the first that has its layers."""
    chosen, other = choose_backend(asked), get_backend("torch")
    lacking = chosen.lacking(all_layers(plan.document)) if asked is None and other.is_there() else []
    if not lacking:
        return chosen, ""
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return other, f"checked in {other.title}: {chosen.title} does not have {', '.join(lacking[:3])}{more}"


def _session(runtime: Any, plan: ExportPlan, place: str, external: bool) -> Any:
    """A session of onnxruntime for the model. Raises `CaffeSplitError` where it does not run an operator."""
    try:
        return _opened(runtime, plan, place, external)
    except Exception as error:  # each of onnxruntime's errors is a class of its own, of no common base
        said = " ".join(str(error).split())
        raise CaffeSplitError(
            f"{plan.out}: onnxruntime {runtime.__version__} does not run the model: {said}. Choose another --opset, or "
            "--check 0 to write it without a check."
        ) from None


def _opened(runtime: Any, plan: ExportPlan, place: str, external: bool) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if not external:
        return runtime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
    # The file with the weights has no name yet, so they are given as they lie in memory.
    constants = plan.model.graph.constants
    values = [runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in constants.values()]
    options.add_external_initializers(list(constants), values)
    return runtime.InferenceSession(place, options, providers=["CPUExecutionProvider"])


def _compare(
    plan: ExportPlan, both: _Both, shapes: Mapping[str, Shape], seed: int, tolerance: float
) -> list[BlobDifference]:
    rng = np.random.default_rng(seed)
    layers = all_layers(plan.document)
    blobs = infer_shapes(phase_layers(plan.document, plan.options.state), shapes).blobs
    given = {name: random_input(layers, name, {**blobs, **shapes}, name in plan.transforms, rng) for name in shapes}
    transformed = {
        name: plan.transforms[name](values) if name in plan.transforms else values for name, values in given.items()
    }
    wanted = {value.name for value in plan.model.graph.inputs}
    with scratch() as folder:
        net, inputs = folder / "net.prototxt", folder / "inputs.npz"
        write_atomic(net, plan.document.to_bytes())
        write_inputs(inputs, transformed)
        files = NetFiles(net, plan.weights.absolute())
        both.given = {name: values for name, values in given.items() if name in wanted}
        forwarding = Forwarding(1, plan.options.state, seed, inputs, shapes)
        return compare_nets(both, files, NetFiles(Path(plan.out), Path(plan.out)), forwarding, tolerance)


def random_input(
    layers: Sequence[Layer], name: str, shapes: Mapping[str, Shape], is_image: bool, rng: np.random.Generator
) -> np.ndarray:
    """Random values for an input, such as the layers that read it take; `shapes` are those of the net's blobs."""
    if is_image:
        return rng.integers(0, 256, shapes[name]).astype(np.float32)
    drawn = drawn_input(layers, name, shapes, rng)
    return rng.standard_normal(shapes[name]).astype(np.float32) if drawn is None else drawn


def _verdict(
    rows: Sequence[BlobDifference], tolerance: float, shapes: Mapping[str, Shape], engine: str, plan: ExportPlan
) -> str:
    """The result in one line. Raises `CaffeSplitError` where an output does not pass."""
    failed = [row for row in rows if not row.passes(tolerance)]
    worst = max(rows, key=lambda row: row.relative)
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    if failed:
        first = failed[0]
        what = first.why or f"differs by {first.relative:.3e} (relative), tolerance {tolerance:g}"
        raise CaffeSplitError(
            f"the model does not compute what {plan.document.filename} does: output '{first.blob}' {what}, for "
            f"{sizes}, against {engine}. Nothing was written; --check 0 writes it all the same."
        )
    rounded = f", {worst.times:.2g} times what one rounding of the input does" if worst.times is not None else ""
    return (
        f"same as {engine} for {sizes}: largest relative difference {worst.relative:.3e} (output '{worst.blob}'), "
        f"tolerance {tolerance:g}{rounded}"
    )
