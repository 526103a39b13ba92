"""The built Caffe as a back end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_split.backends.caffe.child import explained
from caffe_split.backends.caffe.find import find_caffe
from caffe_split.backends.caffe.lmdbs import check_lmdbs
from caffe_split.backends.protocol import (
    Backend,
    Forwarded,
    Forwarding,
    NetFiles,
    NotFoundError,
    Running,
    Session,
    Timed,
    Timing,
    TrainingCommand,
    TrainingRequest,
)
from caffe_split.layertypes.foreign import foreign_fields
from caffe_split.net.layers import Layer
from caffe_split.net.solver_nets import nets_of
from caffe_split.net.state import NetState
from caffe_split.net.training import open_training

if TYPE_CHECKING:
    import numpy as np

    from caffe_split.engine.spec.command import Choices
    from caffe_split.split.branch_norm import ChannelStatistics


class Caffe(Backend):
    """Nets in pycaffe, each job in a process of its own; training by the `caffe` program."""

    name = "caffe"
    title = "Caffe"
    library = "Caffe"
    module = "caffe"
    how_to_get = "build Caffe with ./tools/build_caffe"
    runs_program = True
    no_choices = "Caffe has one precision, and takes the device and the seed from the solver"

    def require(self) -> None:
        """Raises `NotFoundError` where there is no pycaffe."""
        if not self.is_there():
            raise NotFoundError("pycaffe is not in this environment; build it with ./tools/build_caffe")

    def lacking(self, layers: Sequence[Layer]) -> list[str]:
        """See `Backend.lacking`. It is this Caffe that is asked for its types, which may be more than BVLC's."""
        from caffe_split.backends.caffe.types import unknown_types

        types = [f"type {name}" for name in unknown_types(layer.type for layer in layers)]
        return types + list(dict.fromkeys(each.path for layer in layers for each in foreign_fields(layer)))

    def forward(self, nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
        """See `Backend.forward`. Raises `CaffeSplitError` with Caffe's own last words."""
        from caffe_split.backends.caffe.forward import forward

        for net in nets:
            _check_lmdbs(net.net, how.state)
        return forward(nets, how)

    def open(self, net: NetFiles, how: Running) -> AbstractContextManager[Session]:
        """See `Backend.open`. Raises `CaffeSplitError` with Caffe's own last words."""
        from caffe_split.backends.caffe.session import open_session

        _check_lmdbs(net.net, how.state)
        return open_session(net, how, _environment(how.threads))

    def time(self, net: Path, how: Timing, say: Callable[[int, float], None]) -> Timed:
        """`caffe time`, on one thread unless OPENBLAS_NUM_THREADS or `how` says otherwise."""
        from caffe_split.backends.caffe.timing import run_caffe_time

        _check_lmdbs(net, how.state)
        return run_caffe_time(find_caffe(how.program), net, how, _environment(how.threads), say)

    def channel_statistics(
        self, net: NetFiles, blobs: Sequence[str], batches: int, state: NetState
    ) -> dict[str, ChannelStatistics]:
        """See `Backend.channel_statistics`. Raises `CaffeSplitError` with Caffe's own last words."""
        from caffe_split.backends.caffe.statistics import channel_statistics

        _check_lmdbs(net.net, state)
        return channel_statistics(net, blobs, batches, state)

    def mean_gradients(
        self, net: Path, weights: Sequence[Path], layers: Sequence[str], batches: int, state: NetState
    ) -> list[dict[str, np.ndarray]]:
        """See `Backend.mean_gradients`. Raises `CaffeSplitError` with Caffe's own last words."""
        from caffe_split.backends.caffe.gradients import mean_gradients

        _check_lmdbs(net, state)
        return mean_gradients(net, weights, layers, batches, state)

    def require_trainer(self, program: str | None) -> None:
        """Raises as `find_caffe` does: training needs the program, not pycaffe."""
        find_caffe(program)

    def training(self, request: TrainingRequest) -> TrainingCommand:
        """`caffe train`, on one thread unless OPENBLAS_NUM_THREADS or the request says otherwise."""
        words = [str(find_caffe(request.program)), "train", "-solver", str(request.solver)]
        if request.program is None:  # what a fork's program opens, and how, is not known
            check_lmdbs(nets_of(request.solver))
        if request.weights is not None:
            words += ["-weights", request.weights]
        if request.snapshot is not None:
            words += ["-snapshot", request.snapshot]
        return TrainingCommand(words, _environment(request.threads), ("OPENBLAS_NUM_THREADS",))

    def trainer(self, choices: Choices) -> str:
        """It takes no choices."""
        return "BVLC Caffe"

    def reason(self, line: str) -> str:
        """The line, and the way out where this Caffe cannot read a LevelDB."""
        return explained(line)


def _check_lmdbs(net: Path, state: NetState) -> None:
    check_lmdbs([(open_training(net).net, state)])


def _environment(threads: int | None) -> dict[str, str]:
    environment = dict(os.environ)
    if threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = str(threads)
    # A second thread gains nothing in this Caffe, and leaves no room for a training beside this one.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    environment["GLOG_minloglevel"] = "0"  # A user's pycaffe may be quiet: of a training the messages are the log.
    # The log is the one that the plan names: no second copy in the temporary folder.
    if not any(name.lower() in ("glog_log_dir", "glog_alsologtostderr") for name in environment):
        environment.setdefault("GLOG_logtostderr", "1")
    return environment
