"""The loop: a baseline, then rounds that each measure, split, verify, train, fold and test, beside their controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from caffe_split.backends.check_weights import check_weights
from caffe_split.backends.choose import choose_backend
from caffe_split.derivation.choice import parse_choice
from caffe_split.derivation.choose import candidates, choose_layers
from caffe_split.derivation.measure_saliency import expect_gradient
from caffe_split.errors import CaffeSplitError, expect, expect_path
from caffe_split.files import PathLike, sha256
from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.net.training import Training, open_training
from caffe_split.rounds.adopted import adopted_watch
from caffe_split.rounds.checks import check_deploy, check_solver
from caffe_split.rounds.folder import ADOPTED, LoopFolder
from caffe_split.rounds.options import LAYERS, MultiSplitOptions
from caffe_split.rounds.outputs import BEST, tested_images, write_outputs
from caffe_split.rounds.plan import BASELINE, LoopStep, round_name, steps_of
from caffe_split.rounds.progress import LoopProgress, Screen, Silent
from caffe_split.rounds.result import MultiSplits, collect
from caffe_split.rounds.steps import Start, Steps
from caffe_split.rounds.training import DivergedError, Runner
from caffe_split.rounds.window import watch_of
from caffe_split.split.partition import parse_rule

DEFAULTS = MultiSplitOptions()


def multisplit(
    solver: PathLike,
    *,
    options: MultiSplitOptions = DEFAULTS,
    weights: PathLike | None = None,
    deploy: PathLike | None = None,
    out: PathLike = "multisplit",
    screen: Screen | None = None,
) -> MultiSplits:
    """Improve a net by rounds of splits, each folded back to its own cost and compared with a control.

    Trains the baseline with TPM layers in a copy of its net. With `options.iteration` the solver's own training is
    taken for it, if its snapshots are there and have TPM, or nothing needs TPM. The same call goes on where an earlier
    one was stopped or killed; finished steps are not done again.

    Args:
        solver: The solver of the baseline. Its files are not changed.
        options: What is done; see `MultiSplitOptions`.
        weights: An old caffemodel to improve. Where layers and kernels are chosen without TPM, it is split as it is;
            otherwise the baseline is trained from it, and watched.
        deploy: A deploy net of the baseline, which fits the folded weights as it is: copied into `best/`.
        out: The loop's folder.
        screen: Where words and progress go; None: nowhere.

    Returns what was found, which also lies in `out`: table.md, result.json, curves.png, report.html and best/. Raises
    `CaffeSplitError` for what can be checked before anything is trained, and where a step fails before a round is
    finished; later the outcome is that of the finished rounds, and says why.

    >>> import os, tempfile
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, solver = os.path.join(folder, "net.prototxt"), os.path.join(folder, "solver.prototxt")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "DummyData" top: "data" top: "label"
    ...         dummy_data_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 }
    ...         data_filler { type: "gaussian" } data_filler { type: "constant" } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4
    ...         kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    ... layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 2
    ...         weight_filler { type: "xavier" } } }
    ... layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
    ...         include { phase: TEST } }
    ... layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }''')
    >>> with open(solver, "w") as stream:
    ...     _ = stream.write(f'''net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 display: 1 test_iter: 1
    ...         test_interval: 2 solver_mode: CPU snapshot_prefix: "{folder}/net" ''')
    >>> options = cs.MultiSplitOptions(rounds=1, iteration=2, control=False)
    >>> found = cs.multisplit(solver, options=options, out=os.path.join(folder, "multisplit"))
    >>> [(row.name, row.parameters) for row in found.rows()]
    [('baseline', 626), ('MultiSplits', 700), ('MultiSplits, folded', 626)]
    """
    loop = plan_loop(solver, options=options, weights=weights, deploy=deploy, out=out)
    return loop.run(Silent() if screen is None else screen)


def plan_loop(
    solver: PathLike,
    *,
    options: MultiSplitOptions = DEFAULTS,
    weights: PathLike | None = None,
    deploy: PathLike | None = None,
    out: PathLike = "multisplit",
) -> Loop:
    """Check all that can be checked before anything is trained; see `multisplit` for the arguments."""
    expect_path(solver, "a solver")
    expect(options, MultiSplitOptions, "MultiSplitOptions(...) as options")
    for value, what in ((weights, "weights"), (deploy, "a deploy net")):
        if value is not None:
            expect_path(value, what)
    expect_path(out, "the folder out")
    training = open_training(solver)
    if training.solver is None or training.solver_path is None or training.solver_path != Path(solver):
        raise CaffeSplitError(f"{solver} is a net; give the solver that trains it.")
    check_solver(training)
    options = _with_layers(training, options)
    watch = watch_of(options, training.solver)
    choice, rule = parse_choice(options.derive.choose_by), parse_rule(options.derive.partition)
    by_tpm = (isinstance(options.layers, int) and choice.by_tpm) or rule.needs_scores
    if choice.saliency or rule.saliency:
        expect_gradient(training)
    old = None if weights is None else Path(weights)
    folder = LoopFolder(Path(out))
    if old is not None and not old.is_file():
        raise CaffeSplitError(f"no weights file {old}.")
    check_deploy(training, deploy)
    if old is not None and not by_tpm:  # else they are trained on, which leaves out what the net does not have
        extra = options.derive.ignore_extra_weights
        check_weights(training.net, read_weights(old), old, training.state, ignore_extra=extra)
    adopted, why = adopted_watch(training, watch, options, old, by_tpm=by_tpm, begun=folder.adopted())
    engine = choose_backend(options.engine).name
    net = None if training.is_inline else training.net_path
    inputs = {path: sha256(path) for path in (training.solver_path, net, old, deploy) if path is not None}
    asked = {
        "inputs": {str(path): digest for path, digest in inputs.items()},
        "choices": {**options.as_dict(), "engine": engine, ADOPTED: adopted is not None},
    }
    start = Start(training, adopted or watch, by_tpm, adopted is not None, old)
    options = replace(options, engine=engine)
    loop = Loop(start, folder, options, None if deploy is None else Path(deploy), asked, why)
    loop.check()
    return loop


class Loop:
    """A loop that can be run, or run on.

    `steps` are all of it, in order; `note` says where the baseline comes from, unless it is there.
    """

    def __init__(
        self,
        start: Start,
        folder: LoopFolder,
        options: MultiSplitOptions,
        deploy: Path | None,
        asked: Mapping[str, Any],
        note: str,
    ) -> None:
        self.start, self.folder, self.options, self._note = start, folder, options, note
        self._deploy, self._asked = deploy, asked
        self.steps = steps_of(options, start.max_iter, start.adopted)

    @property
    def note(self) -> str:
        """Where the baseline comes from; empty once it is there."""
        return self._note if self.folder.result(self.steps[0].title) is None else ""

    def check(self) -> None:
        """Raises `CaffeSplitError` where the folder is another's, or was begun for something else."""
        self.folder.check(self._asked)
        begun = self.folder.adopted()
        if begun is False and self.start.adopted:
            raise CaffeSplitError(
                f"{self.folder.path}: another command has just begun it with a baseline of its own; start again."
            )
        if begun and not self.start.adopted:
            raise CaffeSplitError(
                f"{self.folder.path} was begun with the training at {self.start.training.prefix} as its baseline; now "
                f"{self._note or 'its last snapshot is gone'}. Put its snapshots back, or choose another --out."
            )
        done = self.options.rounds
        while self.folder.result(f"{round_name(done + 1)}.fold") is not None:
            done += 1
        if done > self.options.rounds:
            raise CaffeSplitError(
                f"{self.folder.path} has {done} finished rounds, whose outcome --rounds {self.options.rounds} would "
                f"replace; give --rounds {done} or more, or choose another --out."
            )

    def left(self) -> list[LoopStep]:
        """The steps that are not finished."""
        return [step for step in self.steps if self.folder.result(step.title) is None]

    def rounds_before(self, step: LoopStep) -> int:
        """How often the net of a step has been split: 0 for the baseline and controls."""
        names = [each.name for each in self.steps if each.splits and each.verb == "derive"]
        return names.index(step.name) + 1 if step.name in names else 0

    @property
    def needs_saliency(self) -> bool:
        """Whether layers or kernels are chosen by saliency."""
        how = self.options.derive
        return bool(parse_choice(how.choose_by).saliency or parse_rule(how.partition).saliency)

    def choices(self) -> str:
        """How each round splits, in a line."""
        layers, how = self.options.layers, self.options.derive
        which = f"{layers} layers by {how.choose_by}" if isinstance(layers, int) else ", ".join(layers or ())
        batches = f", scores of {how.batches} batches" if self.needs_saliency else ""
        return (
            f"each round splits {which}; {how.kind}, partition {how.partition}{batches}, run on {self.options.engine}"
        )

    def run(self, screen: Screen) -> MultiSplits:
        """Do all that is left, and write the outcome."""
        with self.folder.held():
            # Another command may have begun the folder since the first look at it.
            self.check()
            self.folder.begin(self._asked)
            if self.note:
                screen.say(self.note)
            stopped = self._run(screen)
            results = {step.title: self.folder.result(step.title) for step in self.steps}
            images = tested_images(self.start.training)
            outcome = collect({title: each for title, each in results.items() if each is not None}, images, stopped)
            write_outputs(self.folder.path, outcome, self.start, self._deploy)
            if self._deploy is not None and outcome.best is not None and outcome.best.kept:
                screen.say(
                    f"{BEST}/ has no {self._deploy.name}: it fits a net whose splits are all folded, and those of "
                    f"{', '.join(outcome.best.kept)} stay."
                )
        return outcome

    def _run(self, screen: Screen) -> str:
        """Do what is left; returns why it ended early, or an empty text."""
        total = sum(step.iterations for step in self.steps)
        done = total - sum(step.iterations for step in self.left())
        progress = LoopProgress(screen, total, done)
        assert self.options.engine is not None
        runner = Runner(self.options.engine, self.options.threads, progress)
        work = Steps(self.start, self.folder, self.options, runner, screen)
        lost: set[str] = set()
        for number, step in enumerate(self.steps, 1):
            if step.name in lost or step.parent in lost:
                lost.add(step.name)
                continue
            result = self.folder.result(step.title)
            if result is None:
                screen.say(f"[{number}/{len(self.steps)}] {step.title}")
                try:
                    result = work.run(step)
                except DivergedError as error:
                    if step.name == BASELINE:
                        raise CaffeSplitError(
                            f"the baseline diverged: {error}. There is nothing to split: lower base_lr, and choose "
                            "another --out."
                        ) from error
                    result = {"diverged": str(error)}
                except CaffeSplitError as error:
                    if self.folder.result(f"{round_name(1)}.fold") is None:
                        raise
                    return f"{step.title} failed: {str(error).rstrip('.')}"
                self.folder.mark(step.title, result)
            if "diverged" in result:
                lost.add(step.name)
                said = f"{step.name} diverged: {result['diverged']}"
                if step.splits:
                    return said
                screen.say(f"{said}; the rounds go on without it")
        return ""


def _with_layers(training: Training, options: MultiSplitOptions) -> MultiSplitOptions:
    """The options with the number of layers. Raises `CaffeSplitError` where that many cannot be split."""
    if isinstance(options.layers, tuple):
        choose_layers(training.net, options.layers, 1, [], options.derive, training.state)
        return options
    possible = [layer.name for layer in candidates(training.net, options.derive, training.state)]
    if not possible:
        raise CaffeSplitError(f"{training.net_path}: it has no convolution that can be split.")
    if options.layers is None:
        return replace(options, layers=min(LAYERS, len(possible)))
    if options.layers > len(possible):
        raise CaffeSplitError(
            f"{training.net_path}: {options.layers} layers to split, and {len(possible)} can be: {', '.join(possible)}."
        )
    return options
