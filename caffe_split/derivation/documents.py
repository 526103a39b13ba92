"""The documents that a derivation changes: the training net, test nets, a deploy net, and the solver."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.derivation.solver import derived_solver
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.prototxt.upgrade import upgrade_old
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import PHASES, NetState
from caffe_split.net.training import Training

Size = tuple[int, int]


@dataclass(frozen=True)
class Files:
    """The documents of a derivation.

    `nets` are those to change, the training net first; `solver` is that of the derived net, if any; `read` are the
    files they came from (a net that stands in its solver has none); `notes` say what was done to bring them to
    today's form.
    """

    nets: tuple[tuple[Path, prototxt.Document], ...]
    solver: tuple[tuple[Path, prototxt.Document], ...]
    read: tuple[Path, ...]
    notes: tuple[str, ...]


def read_files(training: Training, out: Path, deploy: Path | None, splits: Collection[str]) -> Files:
    """The training's net, test nets and solver, and `deploy`, brought to today's form.

    Raises `CaffeSplitError` where `deploy` has none of the layers `splits`.
    """
    nets = [(training.net_path, training.net)]
    solver = []
    named = [] if deploy is None else [deploy]
    read = [training.net_path]
    if training.solver is not None and training.solver_path is not None:
        document, inner, test_nets = derived_solver(training, out)
        solver = [(training.solver_path, document)]
        nets += inner
        named = test_nets + named
        read.append(training.solver_path)
    notes = [f"{training.net_path}: {note}" for note in training.upgraded]
    for path in named:
        net = read_net(path, caffe_proto=training.caffe_proto)
        notes += [f"{path}: {note}" for note in upgrade_old(net)]
        nets.append((path, net))
        if path == deploy and not any(layer.name in splits for layer in all_layers(net)):
            raise CaffeSplitError(
                f"{path}: none of the layers to split is in it ({', '.join(sorted(splits))}). Is it a net of this "
                "training?"
            )
    return Files(tuple(nets), tuple(solver), (*read, *named), tuple(notes))


def input_sizes(
    documents: Sequence[prototxt.Document],
    state: NetState,
    inputs: Mapping[str, tuple[int, ...]] | None,
) -> dict[str, tuple[Size | None, ...]]:
    """Layer -> the sizes (height, width) of its bottom in all documents and phases; None where one is not known."""
    sizes: dict[str, list[Size | None]] = {}
    for document in documents:
        for phase in PHASES:
            layers = phase_layers(document, state.in_phase(phase))
            blobs = infer_shapes(layers, inputs).blobs
            for layer in layers:
                if layer.type == "Convolution":
                    shape = blobs.get(layer.bottoms[0], ()) if layer.bottoms else ()
                    sizes.setdefault(layer.name, []).append((shape[2], shape[3]) if len(shape) == 4 else None)
    return {name: tuple(found) for name, found in sizes.items()}
