"""What a back end is: something that runs Caffe's nets, for those who compare two nets, measure one or train one.

A back end is a subclass of `Backend` in a module of its own, and a line in the registry (`choose.py`). A module must
import without the library that it needs; it loads that library when it runs a net.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from caffe_split.errors import CaffeSplitError
from caffe_split.net.state import TEST, TRAIN, NetState

if TYPE_CHECKING:
    import numpy as np

    from caffe_split.engine.spec.command import Choices
    from caffe_split.net.layers import Layer
    from caffe_split.split.branch_norm import ChannelStatistics


class NetFiles(NamedTuple):
    """A net's prototxt and its weights (.caffemodel, or HDF5)."""

    net: Path
    weights: Path


@dataclass(frozen=True)
class Forwarding:
    """How nets are forwarded: all of them in the same way, on the same input.

    batches: how many. state: that of every net. seed: of all random numbers (dropout, mirroring, fillers of data, noise
    of inputs), for each net anew. input_file: an .npy array of shape (N, C, H, W) for nets of one input, or an .npz
    of arrays by input, the same for each batch; inputs without an array get Gaussian noise. Data layers read their
    data sets from the start. shapes: of the tops of Input layers, in place of those that are written. rounded:
    every blob of a layer without bottoms, which Input and data layers are, goes through `compare.one_rounding`.
    """

    batches: int = 1
    state: NetState = TEST
    seed: int = 0
    input_file: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rounded: bool = False


@dataclass(frozen=True)
class Forwarded:
    """What a net gave: the names of its outputs, and per batch blob -> values (float32, in Caffe's shapes).

    A blob has the value that its last layer in place left. Tops of TPM layers, which report earlier iterations, and of
    Split layers that Caffe has put in are left out.
    """

    outputs: Sequence[str]
    batches: Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Running:
    """How one net is run, batch after batch.

    blobs: the names of those that come back beside the outputs. shapes: of the tops of Input layers, in place of those
    that are written. skip: batches of the net's own data that are passed over first. device: "cpu" or "cuda". threads:
    of the processors; None leaves them to the back end.
    """

    state: NetState = TEST
    blobs: Sequence[str] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    skip: int = 0
    device: str = "cpu"
    threads: int | None = None


class Batch(NamedTuple):
    """What one forward run gave: the weighted sum of the losses, and blobs by name (float32, in Caffe's shapes)."""

    loss: float
    blobs: Mapping[str, np.ndarray]


class Session(ABC):
    """A net that stands ready with its weights.

    inputs: the names of the Input layers' tops. outputs: those of the blobs that no layer reads, in Caffe's order.
    shapes: of all blobs by name. loss_weights: of the blobs that have one. notes: what is not computed, and why.
    lacks_loss: a loss is not.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    loss_weights: Mapping[str, float]
    notes: Sequence[str] = ()
    lacks_loss: bool = False

    @abstractmethod
    def forward(self, inputs: Mapping[str, np.ndarray] | None = None) -> Batch:
        """Run the next batch. `inputs` are values of tops of Input layers, of their whole shape."""


@dataclass(frozen=True)
class Timing:
    """How a net is timed: iterations are those that count; one more, which does not, comes first.

    device and threads: as in `Running`. program: the path of the program, where a back end runs one.
    """

    state: NetState = TRAIN
    iterations: int = 50
    device: str = "cpu"
    threads: int | None = None
    program: str | None = None


class LayerTime(NamedTuple):
    """The mean time of a layer in milliseconds, forward and backward."""

    name: str
    forward: float
    backward: float


class Timed(NamedTuple):
    """Mean times of a net in milliseconds per iteration; layers in the order in which they run.

    notes: what is not computed, and why.
    """

    layers: Sequence[LayerTime]
    forward: float
    backward: float
    both: float
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TrainingRequest:
    """What is to be trained: a solver, from weights (several: comma-separated) or from a solver state, or from neither.

    threads: of the processors; None leaves them to the back end. program: the path of the program that trains, where a
    back end runs one. choices: how to train, for back ends that take them.
    """

    solver: Path
    weights: str | None
    snapshot: str | None
    threads: int | None
    program: str | None
    choices: Choices


@dataclass(frozen=True)
class TrainingCommand:
    """A command that trains and writes Caffe's log to its standard error; it stops with a snapshot at SIGINT.

    environment: all variables of its process. shown: names of those that a reader should see beside the command.
    """

    words: list[str]
    environment: dict[str, str]
    shown: tuple[str, ...] = ()


class NotFoundError(CaffeSplitError):
    """A back end is not installed here. The message says how to get it, without a full stop; `short` only that."""

    def __init__(self, message: str, short: str = "") -> None:
        super().__init__(message)
        self.short = short or message


class Backend(ABC):
    """One way to run Caffe's nets. Each method raises `CaffeSplitError` for what cannot be run so."""

    name: ClassVar[str]
    """As --engine takes it."""
    title: ClassVar[str]
    """As a sentence has it."""
    library: ClassVar[str]
    """What it needs, by the name that people know."""
    module: ClassVar[str]
    """The Python module of that library."""
    how_to_get: ClassVar[str]
    """How to get the library: a clause in the imperative."""
    deploy_only: ClassVar[bool] = False
    """Whether it runs deploy nets only: no data layers, no statistics, no training."""
    runs_program: ClassVar[bool] = False
    """Whether training runs a program that the user may name (--caffe)."""
    no_choices: ClassVar[str] = ""
    """Why training takes no `Choices` and no --snapshot auto: a clause. Empty where it takes them."""
    distribution: ClassVar[str] = ""
    """The name of the library's package for Python, whose version belongs to a result; empty where it is none."""

    @property
    def reads_on(self) -> bool:
        """Whether a training can go on in the data where it stopped: `Choices.continue_data`."""
        return not self.no_choices

    def is_there(self) -> bool:
        """Whether the library is installed. Nothing is loaded."""
        return importlib.util.find_spec(self.module) is not None

    def require(self) -> None:
        """Raises `NotFoundError` where the library is not installed."""
        if not self.is_there():
            raise NotFoundError(f"{self.library} is not in this environment: {self.how_to_get}")

    def lacking(self, layers: Sequence[Layer]) -> list[str]:
        """Types and fields of the layers that the library does not have: `type NAME`, or the path of a field."""
        return []

    @abstractmethod
    def forward(self, nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
        """Forward each net on the same input; what each gave, in the order of the nets."""

    def open(self, net: NetFiles, how: Running) -> AbstractContextManager[Session]:
        """The net with its weights, ready to run batch after batch of its own data, or of what it is given.

        Raises `CaffeSplitError` also for a blob in `how.blobs` that the net does not have.
        """
        raise CaffeSplitError(f"{self.title} runs deploy nets for `verify` only.")

    def time(self, net: Path, how: Timing, say: Callable[[int, float], None]) -> Timed:
        """Run a net forward and backward, and measure each layer. Its parameters are those of its fillers.

        `say` is given the number of each iteration, from 1, and its milliseconds.
        """
        raise CaffeSplitError(f"{self.title} runs deploy nets for `verify` only; it times none.")

    def channel_statistics(
        self, net: NetFiles, blobs: Sequence[str], batches: int, state: NetState
    ) -> dict[str, ChannelStatistics]:
        """Mean and variance of each blob's channels (axis 1) over batches of the net's own data.

        The nets' data are read in `state`, from the start. Values are float64 arrays of shape (channels,).
        """
        raise CaffeSplitError(f"{self.title} runs deploy nets only; it measures no training data.")

    def mean_gradients(
        self, net: Path, weights: Sequence[Path], layers: Sequence[str], batches: int, state: NetState
    ) -> list[dict[str, np.ndarray]]:
        """For each file of weights: the gradient of the loss with respect to the first blob of each of `layers`.

        It is the mean over batches of the net's own data, which is read in `state` from the start for each file anew.
        Layer -> float64 array of the blob's shape; zeros where no gradient is computed (lr_mult 0).
        """
        raise CaffeSplitError(f"{self.title} runs deploy nets only; it computes no gradients.")

    def require_trainer(self, program: str | None) -> None:
        """Raises `NotFoundError` where it cannot train here, and `CaffeSplitError` where `program` is not one."""
        self.require()

    def require_choices(self, solver: Path, choices: Choices) -> None:  # noqa: B027 - what takes none refuses none
        """Raises `CaffeSplitError` where this machine has not the device, or it not the precision, of `choices`."""

    def training(self, request: TrainingRequest) -> TrainingCommand:
        """The command that trains; it runs in the current directory. Checks what can be checked before it starts."""
        raise CaffeSplitError(f"{self.title} runs deploy nets only; it does not train.")

    def trainer(self, choices: Choices) -> str:
        """Who trains, and how, for a page of results."""
        return f"{self.title} in {choices.precision or 'fp32'} on {choices.device or 'cpu'}"

    def reason(self, line: str) -> str:
        """What the fatal line of a training's log says to a user.

        A place in Caffe's source stays: its checks often mean little without it.
        """
        return line
