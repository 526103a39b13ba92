"""The net that a command is given, and how much data it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from caffe_split.backends.check_data import check_data
from caffe_split.backends.check_weights import check_weights
from caffe_split.backends.choose import choose_backend
from caffe_split.backends.protocol import NetFiles, Running, Session
from caffe_split.data.leveldb import count_leveldb
from caffe_split.data.store import count_records
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import PathLike
from caffe_split.formats import prototxt
from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.formats.weights.features import count_rows
from caffe_split.layertypes.cost import listing
from caffe_split.net.bottoms import check_bottoms
from caffe_split.net.chosen import ChosenNet, choose_net
from caffe_split.net.data_sources import SOURCES
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.options import Options
from caffe_split.net.own_phase import as_in_training
from caffe_split.net.state import AskedState, NetState


@dataclass(frozen=True)
class RunOptions:
    """How a net is run.

    engine: the name of a back end, by default the first that is installed. state: that of the net; what is not given
    is as `ChosenNet.state` says; None: the phase of what is done with it. device: "cpu" or "cuda".
    threads: of the processors. ignore_extra: leave out weights of layers that the net does not have. caffe_proto: the
    schema of the fork that the net is for. program: the path of the `caffe` program, where one is run.
    """

    engine: str | None = None
    state: NetState | AskedState | None = None
    device: str = "cpu"
    threads: int | None = None
    ignore_extra: bool = False
    caffe_proto: Path | None = None
    program: str | None = None


DEFAULTS = RunOptions()


class GivenNet(NamedTuple):
    """A net, the state that was asked for, and its layers in that state merged with its own.

    solver: the fields of the solver that was given; all have their defaults where the net was.
    """

    chosen: ChosenNet
    state: NetState
    layers: list[Layer]
    solver: Options

    @property
    def path(self) -> Path:
        """The file in which the net stands."""
        return self.chosen.file

    @property
    def document(self) -> prototxt.Document:
        """The text of the net."""
        return self.chosen.document


def check_sources(net: GivenNet) -> None:
    """Raises `CaffeSplitError` for bottoms that no layer gives, data that are missing, and LMDBs that are empty.

    Caffe's own words for these name neither the line nor the path.
    """
    check_bottoms(net.document, net.state.in_net(net.document))
    check_data([(net.document, net.state.in_net(net.document))])
    for layer in net.layers:
        options = Options.of(layer.message, "data_param")
        if layer.type == "Data" and options.get("backend") == "LMDB":
            where = f"{net.path}:{layer.field.line}: layer '{layer.name}'"
            try:
                records = count_records(str(options.get("source")))
            except CaffeSplitError as error:
                raise CaffeSplitError(f"{where}: {error}") from None
            if not records:
                raise CaffeSplitError(f"{where}: {options.get('source')}: the LMDB holds no record.")


def check_net(net: GivenNet, weights: PathLike, options: RunOptions) -> Path:
    """The path of the weights. Raises `CaffeSplitError` for data that are missing, and weights that do not fit."""
    expect_path(weights, "weights")
    state, path = net.state.in_net(net.document), Path(weights)
    check_sources(net)
    check_weights(net.document, read_weights(path), path, state, ignore_extra=options.ignore_extra)
    return path


class DataSet(NamedTuple):
    """The data of a net: how many records there are, and how many of them are in a batch."""

    records: int
    batch: int

    @property
    def batches(self) -> int:
        """Batches that have every record; the last one begins anew where they do not divide."""
        return -(-self.records // self.batch)


def open_net(path: PathLike, options: RunOptions, phase: str = "TEST") -> GivenNet:
    """The net at `path`, or that of a solver there (in TEST the first that it tests), as `choose_net` has it.

    Raises `CaffeSplitError` where it cannot be read, and where no layer of it runs.
    """
    expect_path(path, "a net or solver")
    asked = options.state or AskedState(phase)
    chosen = choose_net(path, asked.phase, options.caffe_proto)
    state = chosen.state(asked)
    layers = phase_layers(chosen.document, state.in_net(chosen.document))
    if not layers:
        raise CaffeSplitError(f"{chosen.file}: no layer of it runs in the {state.phase} phase.")
    fields = Options("SolverParameter", [] if chosen.solver is None else [chosen.solver])
    return GivenNet(chosen, state, layers, fields)


@contextmanager
def run_net(
    net: GivenNet, weights: PathLike, options: RunOptions, blobs: Sequence[str] = (), **how: object
) -> Iterator[Session]:
    """The net with weights in a back end; `blobs` and `how` are those of `Running`.

    Raises `CaffeSplitError` as `check_net` does.
    """
    path = check_net(net, weights, options)
    backend = choose_backend(options.engine)
    asked = Running(net.state, blobs, device=options.device, threads=options.threads, **how)  # type: ignore[arg-type]
    with net.chosen.as_file() as file, backend.open(NetFiles(file, path), asked) as session:
        session.notes = [*_as_in_training(net), *session.notes]
        yield session


def _as_in_training(net: GivenNet) -> list[str]:
    """A sentence on layers that compute as in training in a TEST net: the text of a caffemodel has such fields."""
    found = [layer.where for layer in net.layers if as_in_training(layer)]
    if net.state.phase == "TRAIN" or not found:
        return []
    return [
        f"computed as in training, by a `phase: TRAIN` of their own: {listing(found, 5)}; take that field out if it is "
        "not meant"
    ]


def data_set(layers: list[Layer]) -> DataSet | None:
    """The data of a net's layers; None where they are not known, or where several layers have different ones."""
    found = {each for layer in layers for each in [_data_of(layer)] if each is not None}
    return found.pop() if len(found) == 1 else None


# Types of layers whose records are counted.
_COUNTED = ("Data", "ImageData", "HDF5Data")


def _data_of(layer: Layer) -> DataSet | None:
    if layer.type not in _COUNTED:
        return None
    options = Options.of(layer.message, SOURCES[layer.type].message)
    source, batch = Path(str(options.get("source"))), int(options.get("batch_size") or 0)
    if layer.type == "Data":
        records = count_leveldb(source) if options.get("backend") == "LEVELDB" else count_records(source)
    elif layer.type == "ImageData":
        text = source.read_text(encoding="utf-8", errors="replace")
        records = sum(1 for line in text.splitlines() if line.strip())
    else:
        records = _hdf5_rows(source, layer.tops[0])
    return DataSet(records, batch) if records > 0 and batch > 0 else None


def _hdf5_rows(listing: Path, top: str) -> int:
    """The rows of the HDF5 files that a list names; 0 where those of one are not known."""
    names = listing.read_text(encoding="utf-8", errors="surrogateescape").split()
    rows = [count_rows(name, top) for name in names]
    return sum(rows) if all(rows) else 0
