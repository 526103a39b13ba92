"""What the steps of a loop do: each makes its files anew, and says what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caffe_split.backends.check_weights import FOLDED_WEIGHTS_NAME, STATE_NAME
from caffe_split.backends.verify import VerifyOptions, verify
from caffe_split.derivation.after_split import record_course
from caffe_split.derivation.make import derive
from caffe_split.derivation.solver import derived_solver
from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, remove_folder
from caffe_split.folding.make import FoldOptions, fold
from caffe_split.formats import prototxt
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.training import Training, open_training
from caffe_split.rounds.folder import LoopFolder
from caffe_split.rounds.options import MultiSplitOptions
from caffe_split.rounds.plan import BASELINE, LoopStep, round_name
from caffe_split.rounds.progress import Screen
from caffe_split.rounds.training import LOG, Runner
from caffe_split.rounds.window import Watch, fastest
from caffe_split.study.paths import is_ours, made
from caffe_split.trainlog.read import read_log


@dataclass(frozen=True)
class Start:
    """What the first round splits.

    training: the user's. watch: when the TPM layers of a baseline that is trained here sample. watched: whether it has
    such layers, since layers or kernels are chosen by TPM. adopted: the baseline is the user's own training, whose
    snapshots are there. weights: with `adopted`, these in place of a training; otherwise what the baseline starts from.
    """

    training: Training
    watch: Watch
    watched: bool
    adopted: bool
    weights: Path | None

    @property
    def solver_path(self) -> Path:
        """The user's solver."""
        assert self.training.solver_path is not None
        return self.training.solver_path

    @property
    def max_iter(self) -> int:
        """The iterations of each training."""
        assert self.training.solver is not None
        return int(self.training.solver.get("max_iter", 0))


@dataclass(frozen=True)
class Steps:
    """The steps of a loop in the folder `folder`."""

    start: Start
    folder: LoopFolder
    options: MultiSplitOptions
    runner: Runner
    screen: Screen

    def run(self, step: LoopStep) -> dict[str, Any]:
        """Do a step; returns its result."""
        if step.verb == "train":
            return self._baseline() if step.name == BASELINE else self._train(step)
        return self._derive(step) if step.verb == "derive" else self._fold(step)

    def run_folder(self, name: str) -> Path:
        """Where a run is trained."""
        return self.folder.path / name

    def solver(self, name: str) -> Path:
        """The solver of a run."""
        if name == BASELINE and self.start.adopted:
            return self.start.solver_path
        return self.run_folder(name) / self.start.solver_path.name

    def at(self) -> tuple[int, tuple[int, int]]:
        """The iteration at which rounds split what was trained here, and the window of its TPM.

        Weights that are split as they are have no log; then that of the first round says where the next ones split. Its
        loss may fall no more, as the weights are trained already: then they split at its end.
        """
        windows = self.start.watch.windows
        window = windows[0]
        if len(windows) > 1:
            first = round_name(1) if self._splits_weights else BASELINE
            try:
                window = fastest(read_log(self.run_folder(first) / LOG), self.start.watch)
            except CaffeSplitError:
                if not self._splits_weights:
                    raise
                window = windows[-1]
        return self.start.watch.split or window[1], window

    @property
    def _splits_weights(self) -> bool:
        """Whether the first round splits given weights as they are."""
        return self.start.adopted and self.start.weights is not None

    def weights(self, name: str) -> Path:
        """The last snapshot of a run."""
        if name == BASELINE and self._splits_weights:
            assert self.start.weights is not None
            return self.start.weights
        return open_training(self.solver(name)).snapshot(self.start.max_iter)

    def _baseline(self) -> dict[str, Any]:
        net = self.start.training
        trained = {}
        if not self.start.adopted:
            self._write_baseline()
            trained = self.runner.train(BASELINE, self.solver(BASELINE), self.start.max_iter)
            net = open_training(self.solver(BASELINE))
        folder = self.run_folder(BASELINE)
        make_folder(folder)
        return {**trained, **self._tested(BASELINE, net, folder)}

    def _write_baseline(self) -> None:
        """The user's net and solver under the loop's names, with TPM layers where they are needed."""
        folder, training = self.run_folder(BASELINE), self.start.training
        solver, _, _ = derived_solver(training, folder)
        solver.remove("weights")
        self._set_snapshots(solver)
        if self.start.weights is not None:
            solver.add("weights", str(self.start.weights))
        elif training.solver is not None:
            for value in training.solver.get_all("weights"):
                solver.add("weights", value)
        if self.start.watched:
            training = self.start.watch.watching(training)
        name = training.net_path.name
        made(folder, {name: training.net.to_bytes(), self.start.solver_path.name: solver.to_bytes()})

    def _set_snapshots(self, solver: prototxt.Document) -> None:
        """Have snapshots where the next round may split, and at the end, which is tested and folded."""
        solver.set("snapshot", self.start.watch.snapshot)
        if not solver.get("snapshot_after_train", True):
            solver.set("snapshot_after_train", True)

    def _train(self, step: LoopStep) -> dict[str, Any]:
        state = self.run_folder(step.name) / STATE_NAME
        goes_on = state if self.options.derive.schedule == "continue" else None
        trained = self.runner.train(step.name, self.solver(step.name), self.start.max_iter, goes_on)
        tested = self._tested(step.name, open_training(self.solver(step.name)), self.run_folder(step.name))
        if step.splits:
            said = record_course(self.solver(step.name), self.runner.engine)
            if said:
                self.screen.say(said)
        return {**trained, **tested}

    def _tested(self, name: str, training: Training, folder: Path) -> dict[str, Any]:
        cost = Cost.of(infer_shapes(training.train_layers()))
        solver = self.solver(name)
        net = training.net_path
        accuracy = self.runner.test(solver, net, self.weights(name), folder)
        return {"accuracy": accuracy, "parameters": cost.parameters, "macs": cost.macs}

    def _derive(self, step: LoopStep) -> dict[str, Any]:
        training = open_training(self.solver(step.parent))
        out = self.run_folder(step.name)
        if step.parent == BASELINE and self.start.adopted:
            assert training.solver is not None
            solver = training.solver.copy()
            self._set_snapshots(solver)
            training = replace(training, solver=solver)
        source: dict[str, Any]
        if step.parent == BASELINE and self._splits_weights:
            window, source = None, {"weights": self.start.weights}
        else:
            at, window = self.at()
            source = {"iteration": at}
        watched = window if self.start.watched else None
        options = replace(self.options.derive, window=watched, engine=self.runner.engine)
        layers = self.options.layers if step.splits else None
        plan = derive(training, **source, layers=layers, options=options, out=out)
        self.screen.say(str(plan))
        plan.write(force=True)
        if not step.splits:
            return source if window else {}
        checked = self._verified(training, plan.weights_path, out)
        where = {} if window is None else {"at": window[1], "window": list(window)}
        return {**where, "layers": [layer.name for layer in plan.layers], **checked}

    def _verified(self, training: Training, weights: Path, out: Path) -> Mapping[str, Any]:
        result = verify(
            training.net_path,
            out / training.net_path.name,
            baseline_weights=weights,
            options=VerifyOptions(
                engine=self.runner.engine,
                state=training.state_in("TEST"),
                ignore_extra=self.options.derive.ignore_extra_weights,
            ),
        )
        self.screen.say(result.verdict())
        if not result.passed and self.options.derive.init == "exact":
            raise CaffeSplitError(f"{out}: {result.verdict()}; the round is not trained.")
        return {"difference": result.worst}

    def _fold(self, step: LoopStep) -> dict[str, Any]:
        training = open_training(self.solver(step.name))
        net = training.net_path
        out = self.run_folder(f"{step.name}-folded")
        remove_folder(out, is_ours)  # an earlier start of this step made it, and was killed before its mark
        options = FoldOptions(state=training.state_in("TEST"))
        plan = fold(net, self.weights(step.name), out=out, options=options)
        self.screen.say(str(plan))
        plan.write(check=VerifyOptions(engine=self.runner.engine))
        folded = out / FOLDED_WEIGHTS_NAME
        accuracy = self.runner.test(self.solver(step.name), out / net.name, folded, out)
        kept = dict(plan.kept)
        return {"accuracy": accuracy, "parameters": plan.after.parameters, "macs": plan.after.macs, "kept": kept}
