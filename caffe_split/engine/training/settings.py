"""What a solver's prototxt asks for: whether it can be done, the names of its snapshots, and its nets."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from caffe_split.engine.log import Log
from caffe_split.engine.model.net import Net
from caffe_split.engine.parallel.group import ALONE, Group, NotShared
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.options import Options
from caffe_split.net.state import TEST, NetState, state_of_training, states_of_tests


def check_solver(path: str, o: Options, group: Group) -> None:
    """Raises `CaffeSplitError` with what is not handled, all of it at once."""
    problems = ["snapshot_diff is not handled"] if o.get("snapshot_diff") else []
    if o.get("debug_info") and group.size > 1:
        problems.append("debug_info is for one process")
    if not o.has("base_lr") and not o.has("lr_policy"):
        problems.append("it gives no base_lr and no lr_policy")
    if o.get("iter_size") < 1 or o.get("average_loss") < 1:
        problems.append("iter_size and average_loss have to be 1 or more")
    if o.get("snapshot_format") == "HDF5" and importlib.util.find_spec("h5py") is None:
        problems.append("snapshot_format HDF5 needs h5py: pip install h5py")
    folder = Path(snapshot_prefix(path, o)).parent
    if not folder.is_dir():
        problems.append(f"snapshot_prefix: no folder {folder} seen from {Path.cwd()}")
    if problems:
        raise CaffeSplitError(f"{path}: " + "; ".join(problems) + ".")


def snapshot_prefix(path: str, o: Options) -> str:
    """What the names of snapshots begin with; the solver's own name without snapshot_prefix, as Caffe has it."""
    prefix = str(o.get("snapshot_prefix"))
    if not prefix:
        return str(Path(path).with_suffix(""))
    return str(Path(prefix) / Path(path).stem) if Path(prefix).is_dir() else prefix


@dataclass(frozen=True)
class Nets:
    """How the nets of a solver are made. fuse, precision, compiled: see `Net`; TEST nets stay fp32."""

    path: str
    options: Options
    device: torch.device
    seed: int
    fuse: bool
    precision: str
    compiled: bool
    log: Log

    def train(self, net: prototxt.Document, group: Group) -> Net:
        """The net that is trained."""
        return self._net(net, state_of_training(self.options), group)

    def tests(self, document: prototxt.Document, net: prototxt.Document, trained: Net, group: Group) -> Iterator[Net]:
        """The test nets of a solver's document, whose weights are the trained one's. Raises `CaffeSplitError`."""
        counts = self.options.all("test_iter")
        documents = [document.inner(message) for message in document.subs("test_net_param")]
        documents += [read_net(str(name), upgrade=True) for name in self.options.all("test_net")]
        if len(counts) < len(documents) or (self.options.has("train_net") and len(counts) != len(documents)):
            raise CaffeSplitError(f"{self.path}: {len(counts)} test_iter for {len(documents)} test nets.")
        documents += [net] * (len(counts) - len(documents))
        if documents and self.options.get("test_interval") < 1:
            raise CaffeSplitError(f"{self.path}: test nets need a test_interval above 0.")
        states = states_of_tests(self.options)
        if len(states) not in (0, len(documents)):
            raise CaffeSplitError(
                f"{self.path}: {len(states)} test_state for {len(documents)} test nets; expected none or one each."
            )
        for index, test in enumerate(documents):
            state = states[index] if states else TEST
            self.log.info(f"Creating test net (#{index}) specified by {test.filename}")
            try:
                # A test's batch is the net's, whatever a training's is.
                made = self._net(test, state, group.dividing())
            except NotShared as error:
                self.log.info(f"Every process runs test net (#{index}) whole: {' '.join(str(error).split())}")
                made = self._net(test, state, ALONE)
            made.share_from(trained)
            yield made

    def _net(self, document: prototxt.Document, state: NetState, group: Group) -> Net:
        return Net(
            document,
            state,
            device=self.device,
            seed=self.seed,
            fuse=self.fuse,
            precision=self.precision if state.phase == "TRAIN" else "fp32",
            compiled=self.compiled,
            group=group,
        )
