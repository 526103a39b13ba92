"""Caffe's Solver: the loop of iterations, with tests, snapshots and the lines of the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from caffe_split.engine.kernels.build import kernels
from caffe_split.engine.layers.norm import BatchNorm
from caffe_split.engine.layers.tpm import TPM
from caffe_split.engine.log import Log, number
from caffe_split.engine.model.net import Net, Output
from caffe_split.engine.parallel.group import ALONE, Group
from caffe_split.engine.parallel.reduce import Reducer
from caffe_split.engine.seeds import mixed_seed
from caffe_split.engine.training.check import check_solver
from caffe_split.engine.training.debug import DebugInfo
from caffe_split.engine.training.diverged import diverged
from caffe_split.engine.training.nets import NetBuilder
from caffe_split.engine.training.outputs import SmoothedLoss, output_lines, values_of
from caffe_split.engine.training.rates import Policy
from caffe_split.engine.training.snapshots import Snapshots
from caffe_split.engine.training.updates import Updater
from caffe_split.files import PathLike
from caffe_split.formats.prototxt.nets import read_solver
from caffe_split.net.options import Options
from caffe_split.net.outputs import OutputTotals
from caffe_split.net.resume import AUTO, tests_before
from caffe_split.net.snapshots import snapshot_prefix
from caffe_split.net.training import open_training, weights_named

# By a coarse clock no time may have passed before the first line; Caffe then divides by 1 second.
_NO_TIME = 1.0


class Solver:
    """A training as a solver's prototxt says, in the current directory as with Caffe.

        solver = Solver("solver.prototxt")
        solver.step(100)
        weights, state = solver.snapshot()

    Args:
        path: the solver.
        weights: caffemodels to start from, instead of the solver's own `weights`.
        snapshot: a solver state to resume from; "auto" takes the newest whole one of the snapshot_prefix, if any.
        device: where to train.
        seed: replaces `random_seed`.
        fuse: as in `Net`.
        precision: as in `Net`; TEST nets are fp32.
        compiled: as in `Net`.
        log: where the lines go; None for standard error.
        wish: called at each iteration; returns "stop", "snapshot", or "" for neither.
        group: the processes that train together. The first one reads weights and states for all and writes snapshots.
        continue_data: after resuming, the data continue where the snapshot left them instead of at the first record;
            always so with "auto".

    Raises `CaffeSplitError` for all that does not fit, before anything is trained.

    Attributes:
        net: the TRAIN net.
        test_nets: the TEST nets, which share its parameters.
        iter: the number of iterations done.
        loss: the smoothed loss.
        updater: the update method with its history.
        snapshots: reads and writes weights and states.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        weights: Sequence[str] | None = None,
        snapshot: str | None = None,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        fuse: bool = True,
        precision: str = "fp32",
        compiled: bool = False,
        log: Log | None = None,
        wish: Callable[[], str] = lambda: "",
        group: Group = ALONE,
        continue_data: bool = False,
    ) -> None:
        self.group = group
        self.path, self.device = str(path), torch.device(device)
        self.log = log if log is not None else Log()
        self._wish = wish
        document = read_solver(path, upgrade=True)
        self.options = Options("SolverParameter", [document])
        check_solver(self.path, self.options, group)
        self.prefix = snapshot_prefix(self.path, self.options.get("snapshot_prefix"))
        self._debug = DebugInfo(self.log) if self.options.get("debug_info") else None
        # Whether the TRAIN net's values are logged, as in Caffe: in the iterations that `display` shows.
        self._debugs = False
        self.fuse = fuse and self._debug is None
        self.policy = Policy.of(self.options)
        given = int(self.options.get("random_seed"))
        self.seed = seed if seed is not None else given if given >= 0 else int.from_bytes(np.random.bytes(4), "little")
        self.seed = group.spread_value(self.seed)
        torch.manual_seed(self.seed)
        self.iter = self.current_step = 0
        self.loss = SmoothedLoss(int(self.options.get("average_loss")))
        self._stopped = False
        self.log.info(f"Initializing solver from parameters: \n{document}")
        training = open_training(path)
        nets = NetBuilder(
            path=self.path,
            options=self.options,
            device=self.device,
            seed=self.seed,
            fuse=self.fuse,
            precision=precision,
            compiled=compiled,
            log=self.log,
        )
        self.net = nets.train(training.net, group)
        self._timed = [layer for layer in self.net.layers if layer.follows_iteration]
        self.log.info(f"Creating training net from net file: {training.net_path}")
        for note in self.net.notes:
            self.log.info(note.text)
        if self.fuse and self.device.type == "cpu" and kernels().why:
            self.log.info(f"Kernels: PyTorch's own operations, which are slower: {kernels().why}")
        if precision == "bf16":
            self.log.info(f"Precision: {self.net.precisions()}")
        for line in (line for layer in self.net.layers if isinstance(layer, TPM) for line in layer.said()):
            self.log.info(line)
        for line in self.net.late:
            self.log.info(f"Gradient of {line}")
        self.test_nets = list(nets.tests(document, training.net, self.net, group))
        self._test_iters = [int(count) for count in self.options.all("test_iter")]
        self.updater = Updater(self.net.params, self.options)
        self._reducer = Reducer(group, [param.values for param in self.net.params])
        hdf5 = self.options.get("snapshot_format") == "HDF5"
        self.snapshots = Snapshots(self.prefix, hdf5, [self.net, *self.test_nets], self.updater, self.log, group)
        if snapshot == AUTO:
            snapshot, continue_data = self.snapshots.newest(), True
        self._resumed = snapshot
        named = weights_named(weights if weights is not None else self.options.all("weights"))
        if snapshot is None and group.is_first:
            for name in named:
                self.log.info(f"Finetuning from {name}")
                self.snapshots.load(name)
        self.log.info("Solver scaffolding done.")
        if snapshot is not None and group.is_first:
            self.log.info(f"Resuming from {snapshot}")
            self.snapshots.load_own(named)
            self.iter, self.current_step = self.snapshots.restore(snapshot)
        self._spread()
        for layer in self.net.layers:
            if isinstance(layer, BatchNorm):
                layer.batches = self.iter * int(self.options.get("iter_size"))
        if continue_data:
            self._continue_data()

    # -- setting up

    def _spread(self) -> None:
        """Copy the state of the first process to all others."""
        if self.group.size > 1:
            self.iter, self.current_step = self.group.spread_value((self.iter, self.current_step))
            self._spread_weights()
            self.group.spread(self.updater.history)
            self.updater.restore(self.updater.history)

    def _spread_weights(self) -> None:
        own = {id(param.values): param.values for net in (self.net, *self.test_nets) for param in net.params}
        self.group.spread(list(own.values()))

    def _continue_data(self) -> None:
        """Make the data of each net continue where they stood at this iteration."""
        o = self.options
        self.net.go_to(self.iter * int(o.get("iter_size")))
        done = tests_before(self.iter, int(o.get("test_interval")), bool(o.get("test_initialization")))
        for net, count in zip(self.test_nets, self._test_iters):
            net.go_to(done * count)
        if self.iter:
            self.log.info(f"Data go on at batch {self.iter * int(o.get('iter_size'))}, tests at number {done}")

    # -- running

    def solve(self) -> bool:
        """Train to max_iter. Returns whether it got there; if not, `wish` asked to stop. Raises `DivergedError`."""
        o = self.options
        self.log.info("Starting Optimization")
        self.log.info(f"Solving {self.net.name}")
        self.log.info(f"Learning Rate Policy: {self.policy.name}")
        start = self.iter
        self.step(int(o.get("max_iter")) - self.iter)
        every = int(o.get("snapshot"))
        # A training resumed at its end has these files already; Caffe would write them again, byte for byte.
        is_there = self.iter == start and self.snapshots.is_of(start, self._resumed)
        if o.get("snapshot_after_train") and (not every or self.iter % every) and not is_there:
            self.snapshot()
        if self._stopped:
            self.log.info("Optimization stopped early.")
            return False
        display = int(o.get("display"))
        if display and self.iter % display == 0:
            with torch.no_grad():
                self._reseed()
                loss = self.group.mean([float(self._forward(self.net).loss)])[0]
            self.loss.add(loss, self.iter - start)
            self.log.info(f"Iteration {self.iter}, loss = {number(self.loss.value)}")
        if o.get("test_interval") and self.iter % int(o.get("test_interval")) == 0:
            self.test_all()
        if self._stopped:
            return False
        self.log.info("Optimization Done.")
        return True

    def step(self, count: int) -> None:
        """Do `count` iterations, with the tests, log lines and snapshots within them. Raises `DivergedError`."""
        o = self.options
        start, stop = self.iter, self.iter + count
        test_every, display_every, snapshot_every = (int(o.get(n)) for n in ("test_interval", "display", "snapshot"))
        batches = int(o.get("iter_size"))
        self.loss = SmoothedLoss(int(o.get("average_loss")))
        clock, shown = time.perf_counter(), self.iter
        while self.iter < stop:
            if test_every and self.iter % test_every == 0 and (self.iter > 0 or o.get("test_initialization")):
                self.test_all()
                if self._stopped:
                    return
            loss = 0.0
            shows = bool(display_every) and self.iter % display_every == 0
            self._debugs = shows and self._debug is not None
            self._reseed()
            for layer in self._timed:
                layer.iteration = self.iter
            for batch in range(batches):
                if batch == batches - 1:
                    self._reducer.begin()
                output = self._learn()
                loss += float(output.loss.detach())
            loss, wish = self._with_others(loss / batches, self._wish())
            if not math.isfinite(loss):
                raise diverged(self.net, self.iter, loss, self.snapshots.last_good())
            self.loss.add(loss, self.iter - start)
            if shows:
                self._show(output, clock, shown)
                clock, shown = time.perf_counter(), self.iter
            self._update(shows)
            if (snapshot_every and self.iter % snapshot_every == 0) or wish == "snapshot":
                self.snapshot()
            if wish == "stop":
                self._stopped = True
                return

    def _learn(self) -> Output:
        """Run the next batch forward and backward."""
        if self._debug is None or not self._debugs:
            return self.net.learn()
        output = self._debug.forward(self.net)
        if output.loss.requires_grad:
            output.loss.backward()
            self._debug.backward()
        return output

    def _forward(self, net: Net) -> Output:
        if self._debug is None or (net is self.net and not self._debugs):
            return net.forward()
        return self._debug.forward(net)

    def _reseed(self) -> None:
        """Seed dropout by seed, iteration and process, so that a resumed training draws the same numbers."""
        if self.net.drops:
            torch.manual_seed(mixed_seed(self.seed, self.iter, self.group.rank))

    def _with_others(self, loss: float, wish: str) -> tuple[float, str]:
        """Average the gradients over the processes. Returns the mean loss, and the wish of any process."""
        if self.group.size == 1:
            return loss, wish
        loss, stop, keep = self._reducer.finish([loss, float(wish == "stop"), float(wish == "snapshot")])
        return loss, "stop" if stop else "snapshot" if keep else ""

    def _update(self, show: bool) -> None:
        step = self.policy.next_step(self.iter, self.current_step)
        if step != self.current_step and self.policy.name == "multistep":
            self.log.info(f"MultiStep Status: Iteration {self.iter}, step = {step}")
        self.current_step = step
        rate = self.policy.rate(self.iter, step)
        if show:
            self.log.info(f"Iteration {self.iter}, lr = {number(rate)}")
        clipped = self.updater.apply(rate, self.iter)
        if clipped:
            self.log.info(clipped)
        self.iter += 1

    def _show(self, output: Output, clock: float, shown: int) -> None:
        seconds = time.perf_counter() - clock
        speed = (self.iter - shown) / (seconds or _NO_TIME)
        self.log.info(
            f"Iteration {self.iter} ({number(speed)} iter/s, {number(seconds)}s/{self.options.get('display')} iters), "
            f"loss = {number(self.loss.value)}"
        )
        values = {name: values_of(self.net.whole(name, output.blobs[name])) for name in self.net.outputs}
        for line in output_lines(self.net, "Train", values):
            self.log.info(line)

    def test_all(self) -> None:
        """Run each test net for its test_iter batches, and log the means of its outputs."""
        # BatchNorm's statistics may differ between processes; those of the first one are in the snapshots and so count.
        if self.group.size > 1:
            self._spread_weights()
        for index in range(len(self.test_nets)):
            if not self._stopped:
                self.test(index)

    @torch.no_grad()
    def test(self, index: int) -> dict[str, list[float]] | None:
        """Run test net number `index`. Returns the means of its outputs by name; None if it was asked to stop."""
        self.log.info(f"Iteration {self.iter}, Testing net (#{index})")
        net, count = self.test_nets[index], self._test_iters[index]
        totals = OutputTotals((layer.text for layer in net.layers), self.options)
        loss = 0.0
        for _ in range(count):
            wish = self._wish()
            stop, keep = self.group.mean([float(wish == "stop"), float(wish == "snapshot")])
            if keep:
                self.snapshot()
            if stop:
                self._stopped = True
                self.log.info("Test interrupted.")
                return None
            output = self._forward(net)
            loss += float(output.loss)
            for name in net.outputs:
                totals.add(name, np.array(values_of(output.blobs[name])))
        if self.options.get("test_compute_loss"):
            self.log.info(f"Test loss: {number(self.group.mean([loss / count])[0])}")
        means = {name: values_of(net.whole(name, torch.from_numpy(totals.mean(name, count)))) for name in net.outputs}
        if self.options.get("show_per_class_result"):
            for label, precision in (one for name in net.outputs for one in totals.of_classes(name).items()):
                self.log.info(f"class{label}: {number(precision)}")
        for line in output_lines(net, "Test", means):
            self.log.info(line)
        return means

    def snapshot(self) -> tuple[Path, Path]:
        """Write weights and solver state, from which Caffe can resume as well. Returns their paths."""
        return self.snapshots.write(self.iter, self.current_step)
