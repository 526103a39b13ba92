"""Exporting a net: everything is worked out and judged first, then written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffe_split import __version__
from caffe_split.backends.check_weights import check_weights
from caffe_split.engine.spec.memory import Trace
from caffe_split.engine.spec.support import form_problems
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.exporting.assemble import Assembly
from caffe_split.exporting.half import halved
from caffe_split.exporting.opened import open_net
from caffe_split.exporting.options import OLDEST_OPSET, CheckOptions, ExportOptions
from caffe_split.exporting.sizes import VARYING, Sizes, longer, sizes_of
from caffe_split.exporting.transform import Transform, find_transforms
from caffe_split.files import PathLike, check_file, replacing, sha256, write_atomic
from caffe_split.folding.batch_norm import merge_batch_norms
from caffe_split.formats import prototxt, safetensors
from caffe_split.formats.onnx import write
from caffe_split.formats.onnx.graph import Model
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.layertypes.shape_rules import Shape
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer
from caffe_split.net.shared import settle_layers

DEFAULTS = ExportOptions()


@dataclass(frozen=True)
class ExportPlan:
    """A model that is ready to be written.

    Attributes:
        out: the file.
        model: what will be in it.
        notes: what was left out or stays as it is, and why: a sentence each.
        arrays: the weights by the names that `caffe_split.load` gives them, for a safetensors file.
        document: the net as it is exported, before BatchNorm is folded.
        weights: the file of its weights.
        sizes: of its blobs.
        options: how it was made.
        transforms: by input, what is part of the graph.
        renamed: outputs that are not called as their blob, since an input is, by name: the blob.
    """

    out: Path
    model: Model
    notes: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    document: prototxt.Document
    weights: Path
    sizes: Sizes
    options: ExportOptions
    transforms: Mapping[str, Transform]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        graph = self.model.graph
        lines = [
            f"{self.document.filename} -> {self.out}: {len(graph.nodes)} operators of version {self.model.opset}, "
            f"{write.size_of(self.model) / 1e6:,.1f} MB of constants"
        ]
        for title, values in (("input", graph.inputs), ("output", graph.outputs)):
            for value in values:
                axes = "x".join("?" if axis is None else str(axis) for axis in value.axes)
                lines.append(f"  {title} {value.name}: {axes or 'scalar'}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, object]:
        """What is printed, as plain values."""
        graph = self.model.graph
        return {
            "out": str(self.out),
            "opset": self.model.opset,
            "operators": len(graph.nodes),
            "bytes": write.size_of(self.model),
            "inputs": {value.name: list(value.axes) for value in graph.inputs},
            "outputs": {value.name: list(value.axes) for value in graph.outputs},
            "notes": list(self.notes),
        }

    def write(
        self,
        force: bool = False,
        check: CheckOptions | None = None,
        with_safetensors: bool = False,
        most_bytes: int = write.MOST_BYTES,
    ) -> list[str]:
        """Write the model, and check it first; returns what the check found, a sentence per input.

        Each file appears whole or not at all, and the model last: where the system refuses to give it its name, the
        other files may be there without it. Weights beside which a model would pass `most_bytes` go into a file
        OUT.data; `with_safetensors` writes them as OUT's name with `.safetensors` as well. Raises `CaffeSplitError`
        where a file is there without `force`, and where the model does not compute what the net does; nothing is
        written then.
        """
        data = Path(f"{self.out}.data") if write.size_of(self.model) > most_bytes - (1 << 24) else None
        tensors = self.out.with_suffix(".safetensors") if with_safetensors else None
        if tensors == self.out:
            raise CaffeSplitError(
                f"{self.out}: the model and its safetensors would have one name; call the model .onnx."
            )
        for path in (self.out, data, tensors):
            if path is not None:
                check_file(path, force)
        with ExitStack() as stack:
            # The files take their names in the reverse order: the model last, so that it never lacks its weights.
            place = stack.enter_context(replacing(self.out, force))
            write_atomic(place, write.pieces(self.model, data.name if data else ""))
            if data is not None:
                write_atomic(stack.enter_context(replacing(data, force)), write.data_pieces(self.model))
            if tensors is not None:
                metadata = dict(self.model.metadata)
                write_atomic(stack.enter_context(replacing(tensors, force)), safetensors.pieces(self.arrays, metadata))
            compared = []
            if check is not None and check.count:
                from caffe_split.exporting.check import check_model

                compared = check_model(self, place, external=data is not None, how=check)
        return compared


def export(net: PathLike, weights: PathLike, *, out: PathLike, options: ExportOptions = DEFAULTS) -> ExportPlan:
    """Work out the ONNX model of a net with its weights; `write` of what it returns writes it.

    One operator per layer where ONNX has it, and those that compute what Caffe does where it has not. Blobs keep their
    names, operators are called as their layers, and weights `layer.weight`, `layer.bias`. Losses and accuracies are
    left out, data layers are inputs. `options` say which opset, which sizes may vary, and what is checked.

    Raises `CaffeSplitError` where the package onnx is missing, for weights that do not fit, and, all at once, for
    layers that ONNX's operators do not compute as Caffe does, or that do not take the sizes that are to vary.

    >>> import os, tempfile
    >>> import numpy as np
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "net.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }''')
    >>> cs.write_weights(weights, {"conv": [np.ones((4, 3, 3, 3)), np.zeros(4)]})
    >>> plan = cs.export(net, weights, out=os.path.join(folder, "net.onnx"))
    >>> [node.op for node in plan.model.graph.nodes], list(plan.model.graph.constants)
    (['Conv'], ['conv.weight', 'conv.bias'])
    """
    expect_path(net, "a net")
    expect_path(weights, "weights")
    _check_opset(options.opset)
    _check_words(options.dynamic)
    path, file = Path(net), Path(weights)
    document = read_net(path, upgrade=True, caffe_proto=options.caffe_proto)
    opened = open_net(document, options.state, options.inputs)
    problems = [(layer, text) for layer in opened.layers for text in form_problems(layer)]
    if problems:
        raise _refusal(path, problems)
    read = read_weights(file)
    check_weights(opened.document, read, file, options.state, ignore_extra=True)
    blobs = _blobs_of(opened.layers, read)
    reference, notes = opened.document.copy(), list(opened.notes)
    if options.fold_batch_norm:
        _, kept = merge_batch_norms([opened.document], blobs)
        notes += [f"BatchNorm behind '{name}' stays: {reason}" for name, reason in kept.items()]
    layers = opened.layers
    inputs = input_shapes(layers)
    varying = [word for word in options.dynamic if longer(inputs, word) != inputs]
    sizes, problems = sizes_of(layers, inputs, varying)
    transforms = find_transforms(opened, inputs, options)
    notes += [f"no input has a {word} that could vary" for word in options.dynamic if word not in varying]
    notes += [f"input '{name}' takes pixels: the model has {each}" for name, each in transforms.items()]
    known = dict.fromkeys(blob for layer in layers for blob in layer.tops)
    strange = [name for name in options.blobs if name not in known]
    if strange:
        raise CaffeSplitError(f"{path}: it has no blob '{strange[0]}'; its blobs: {', '.join(known)}.")
    if problems:
        raise _refusal(path, problems)
    assembly = Assembly(layers, sizes, blobs, options.opset, varying, options.blobs, transforms, options.state.phase)
    if not assembly.outputs:
        raise CaffeSplitError(f"{path}: it has no output: layers read all its blobs. Name one by --blobs.")
    problems = list(Trace(layers, assembly.outputs).overwritten())
    if problems:
        raise _refusal(path, problems)
    graph = assembly.run(str(document.get("name") or path.stem))
    if assembly.problems:
        raise _refusal(path, assembly.problems)
    notes += [
        f"the last value of '{blob}' is the output '{name}', since an input is called '{blob}'"
        for name, blob in assembly.renamed.items()
    ]
    if options.half:
        graph = halved(graph, assembly.to.exact)
    model = Model(graph, options.opset, ("caffe-split", __version__), _metadata(path, file, options))
    write.check(model)
    arrays = _named(layers, sizes, blobs, options.half)
    return ExportPlan(
        Path(out), model, tuple(notes), arrays, reference, file, sizes, options, transforms, assembly.renamed
    )


def _blobs_of(layers: Sequence[Layer], read: Mapping[str, Sequence[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """The weights of a net's layers in the file's order; those that layers share as Caffe loads them."""
    names = {layer.name for layer in layers}
    blobs = {name: list(read[name]) for name in read if name in names}
    settle_layers(layers, blobs)
    return blobs


def _check_opset(opset: int) -> None:
    newest = write.newest_opset()
    if not OLDEST_OPSET <= opset <= newest:
        raise CaffeSplitError(
            f"opset {opset} is not written; {OLDEST_OPSET} to {newest} are, with the installed package onnx."
        )


def _check_words(words: Sequence[str]) -> None:
    strange = [word for word in words if word not in VARYING]
    if strange:
        raise CaffeSplitError(f"'{strange[0]}' cannot vary; expected some of {', '.join(VARYING)}.")


def input_shapes(layers: Sequence[Layer]) -> dict[str, Shape]:
    """The shapes of the inputs by name. Raises `CaffeSplitError` for those that are not known."""
    given = [layer for layer in layers if layer.type == "Input"]
    found = infer_shapes(given)
    for layer in given:
        if layer.name in found.unknown:
            raise CaffeSplitError(f"{layer.where}: the shapes of its tops are not known: {found.unknown[layer.name]}.")
    return {top: found.blobs[top] for layer in given for top in layer.tops}


def _refusal(path: Path, problems: Sequence[tuple[Layer, str]]) -> CaffeSplitError:
    lines = sorted((layer.field.line, layer.name, reason) for layer, reason in problems)
    listed = "".join(f"\n  {path}:{line}: layer '{name}': {reason}" for line, name, reason in lines)
    return CaffeSplitError(f"{path}: it cannot be expressed in ONNX; what stands in the way:{listed}")


def _metadata(net: Path, weights: Path, options: ExportOptions) -> dict[str, str]:
    return {
        "caffe_split_version": __version__,
        "net": net.name,
        "net_sha256": sha256(net),
        "weights": weights.name,
        "weights_sha256": sha256(weights),
        "opset": str(options.opset),
        "made_with": " ".join(
            word
            for word, on in (
                ("fold-batch-norm", options.fold_batch_norm),
                ("half", options.half),
                ("with-transform", options.with_transform),
                (
                    f"transform-of={options.transform_of and options.transform_of.name}",
                    options.transform_of is not None,
                ),
            )
            if on
        ),
    }


def _named(
    layers: Sequence[Layer], sizes: Sizes, blobs: Mapping[str, Sequence[np.ndarray]], half: bool
) -> dict[str, np.ndarray]:
    """The blobs under the names that a module of the net has; of shared ones, the first."""
    named: dict[str, np.ndarray] = {}
    seen: set[str] = set()
    for layer in layers:
        names = layer.param_names()
        for index, shape in enumerate(sizes.blobs(layer)):
            shared = names[index] if index < len(names) else ""
            if shared in seen:
                continue
            seen.update([shared] if shared else [])
            array = np.asarray(blobs[layer.name][index], np.float32).reshape(shape)
            named[f"{layer.name}.{record_of(layer.type).blob_name(index)}"] = (
                array.astype(np.float16) if half else array
            )
    return named
