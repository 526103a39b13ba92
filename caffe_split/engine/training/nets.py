"""The nets of a solver: the one that it trains, and its test nets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from caffe_split.engine.log import Log
from caffe_split.engine.model.net import Net
from caffe_split.engine.parallel.group import ALONE, Group
from caffe_split.engine.spec.shared_batch import NotSharedError
from caffe_split.engine.spec.support import judge_training, layers_of, refusal, refuse_own_phase
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.options import Options
from caffe_split.net.solver_nets import solver_test_nets
from caffe_split.net.state import TEST, NetState, state_of_training, states_of_tests


@dataclass(frozen=True)
class NetBuilder:
    """Builds the nets of a solver.

    Attributes:
        path: the solver's file, for messages.
        options: the fields of the solver.
        device: where the nets run.
        seed: of their fillers and data.
        fuse: as in `Net`.
        precision: of the TRAIN net, as in `Net`; TEST nets are fp32.
        compiled: as in `Net`.
        log: gets the lines about the test nets.
    """

    path: str
    options: Options
    device: torch.device
    seed: int
    fuse: bool
    precision: str
    compiled: bool
    log: Log

    def train(self, net: prototxt.Document, group: Group) -> Net:
        """Build the net to train from its document. Raises `CaffeSplitError` also where Caffe stops going back."""
        state = state_of_training(self.options)
        made = self._net(net, state, group)
        problems = judge_training(net, layers_of(net, state)) if state.phase == "TRAIN" else []
        if problems:
            raise refusal(problems)
        return made

    def tests(self, document: prototxt.Document, net: prototxt.Document, trained: Net, group: Group) -> Iterator[Net]:
        """Build the test nets of the solver `document`, in Caffe's order.

        They share the parameters of `trained`, the net built from the document `net`. Raises `CaffeSplitError`.
        """
        documents = solver_test_nets(document, net)
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
                # A test net keeps its batch_size, even if `multiply` enlarges the batch of the training.
                made = self._net(test, state, group.dividing())
            except NotSharedError as error:
                self.log.info(f"Every process runs test net (#{index}) whole: {' '.join(str(error).split())}")
                made = self._net(test, state, ALONE)
            for note in made.notes:
                if not note.field:
                    self.log.info(note.text)
            made.share_from(trained)
            yield made

    def _net(self, document: prototxt.Document, state: NetState, group: Group) -> Net:
        refuse_own_phase(document, state)
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
