"""Deriving a net: choose layers, split them in memory, and plan the files: nets, solver, weights and solver state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_split.backends.check_weights import WEIGHTS_NAME, Blobs, check_convolution, check_weights
from caffe_split.backends.choose import choose_backend
from caffe_split.backends.protocol import Backend, NetFiles
from caffe_split.derivation.choose import choose_layers, expect_differences, ranking, state_to_split
from caffe_split.derivation.command import command_of
from caffe_split.derivation.derived_weights import complete_states, derived_weights
from caffe_split.derivation.documents import input_sizes, read_files
from caffe_split.derivation.history import continued, parent_state
from caffe_split.derivation.known_scores import KnownScores, measure_known
from caffe_split.derivation.layer_plans import plan_layers
from caffe_split.derivation.options import DEFAULTS, NUM_SPLITS, DeriveOptions
from caffe_split.derivation.own_data import need_training_data
from caffe_split.derivation.plan import DerivePlan, LayerPlan
from caffe_split.derivation.rewrite import rewrite
from caffe_split.derivation.solver import solver_type
from caffe_split.errors import CaffeSplitError, WrongUseError, expect
from caffe_split.files import PathLike, scratch
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.formats.weights.model import Weights
from caffe_split.formats.weights.solverstate import SolverState
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import Layer, all_layers, phase_layers
from caffe_split.net.shared import settle_shared
from caffe_split.net.training import Training
from caffe_split.split.branch_norm import NormSettings, branch_ends, normalised
from caffe_split.split.partition import parse_rule
from caffe_split.split.parts import Part
from caffe_split.tpm.collect import momentum_of
from caffe_split.tpm.layers import remove_watchers, watchers
from caffe_split.tpm.scores import LayerScores


def derive(
    training: Training,
    iteration: int | None = None,
    *,
    weights: PathLike | None = None,
    scores: Sequence[LayerScores] | None = None,
    layers: int | Sequence[str] | None = NUM_SPLITS,
    options: DeriveOptions = DEFAULTS,
    out: PathLike,
    deploy: PathLike | None = None,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
) -> DerivePlan:
    """Plan the split of convolutions of a trained net: the derived net, solver and weights, all in memory.

    Args:
        training: The net and its solver, as `open_training` gives them.
        iteration: The snapshot to split; or else give `weights`, a caffemodel.
        weights: Split these weights, in place of a snapshot. Then TPM is not known: give `scores`, or choose layers
            and kernels by something else.
        scores: TPM that was measured otherwise, as `measure_tpm` gives it: of several windows the one that ends last is
            used. None: it is taken from the snapshot.
        layers: How many layers are split, those that are best by `options.choose_by`; or their names. None: no layer;
            this is the control, the same files and the same schedule with nothing split.
        options: How they are split; see `DeriveOptions`.
        out: The new folder that `plan.write()` makes.
        deploy: A deploy net to change in the same way.
        inputs: Shapes (N, C, H, W) of data blobs whose data set is not there.

    Returns the plan: `print(plan)` shows it, `plan.write()` writes it. Raises `CaffeSplitError` for weights that do
    not fit the net, for layers that cannot be split, and where TPM is needed and not there.

    >>> import numpy as np, os, tempfile
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "net.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }''')
    >>> cs.write_weights(weights, {"conv": [np.random.default_rng(0).normal(size=(4, 3, 3, 3)), np.zeros(4)]})
    >>> options = cs.DeriveOptions(kind="extension", partition="list:0,1")
    >>> training, out = cs.open_training(net), os.path.join(folder, "derived")
    >>> plan = cs.derive(training, weights=weights, layers=["conv"], options=options, out=out)
    >>> plan.layers[0].partition.slow, [part.name for part in plan.layers[0].parts]
    ((2, 3), ['conv_split1', 'conv_split2', 'conv_split2_extension', 'conv_concat', 'conv_reorder'])
    >>> plan.write()
    >>> sorted(os.listdir(plan.out))
    ['init.caffemodel', 'manifest.json', 'net.prototxt']
    """
    expect(training, Training, "a Training: open it by caffe_split.open_training(...)")
    expect(iteration, (int, type(None)), "a whole number as iteration")
    expect(options, DeriveOptions, "DeriveOptions(...) as options")
    training.need_one_solver()
    training.need_known_types()
    training.need_bottoms()
    if isinstance(layers, str):
        raise CaffeSplitError(f"layers are a number or a list of names, found {layers!r}; write [{layers!r}].")
    if isinstance(layers, int) and layers < 1:
        raise WrongUseError(f"layers is {layers}, expected 1 or more, or a list of names.")
    if (iteration is None) == (weights is None):
        raise WrongUseError("give either --iter N, a snapshot of the solver, or --weights FILE.")
    rule = parse_rule(options.partition)
    names = None if isinstance(layers, int) else list(layers or ())
    if names == [] and layers is not None:
        raise WrongUseError("--layers names no layer.")
    if options.schedule == "continue" and training.state.phase != "TRAIN":
        raise WrongUseError(f"--schedule continue goes on with the training, not in the {training.state.phase} phase.")
    path = Path(weights) if weights is not None else training.snapshot(iteration or 0)
    known = measure_known(training, path, iteration, names, scores, options)
    state, count = state_to_split(training), layers if isinstance(layers, int) else 0
    best = ranking(training.net, known.scores, known.saliency, options, state)
    chosen = choose_layers(training.net, names, count, best, options, state)
    if rule.needs_scores:
        expect_differences(chosen, known.scores)
    source = _Source(training, caffemodel.read_weights(path), path, iteration, inputs)
    out, deploy = Path(out), None if deploy is None else Path(deploy)
    plan = _plan(source, chosen, known, options, out, deploy)
    if scores is not None:
        return plan  # no command line takes scores
    command = command_of(training, options, iteration=iteration, weights=path, layers=layers, out=out, deploy=deploy)
    return replace(plan, command=command)


@dataclass(frozen=True)
class _Source:
    """What is split: a training and its weights, read from `path`; `inputs` are shapes of data blobs."""

    training: Training
    weights: Blobs
    path: Path
    iteration: int | None
    inputs: Mapping[str, tuple[int, ...]] | None


def _plan(
    source: _Source,
    layers: Sequence[Layer],
    known: KnownScores,
    options: DeriveOptions,
    out: Path,
    deploy: Path | None,
) -> DerivePlan:
    """Split `layers`. `known` may be empty where the partition needs nothing."""
    training, weights, inputs = source.training, source.weights, source.inputs
    check_weights(
        training.net,
        weights,
        source.path,
        training.state,
        ignore_extra=options.ignore_extra_weights,
        inputs=inputs,
    )
    _check_trained(training, layers, weights, source.path)
    parent = None
    if options.schedule == "continue":
        parent = _parent_state(training, source.path, source.iteration)
    files = read_files(training, out, deploy, {layer.name for layer in layers})
    sizes = {}
    if options.skip_pool == "average":
        sizes = input_sizes([net for _, net in files.nets], training.state, inputs)
    momentum = momentum_of(training) or 0.0
    plans = plan_layers(layers, weights, known, options, momentum=momentum, sizes=sizes)
    norm = norm_settings(training.net)
    measures = known.saliency or (options.branch_norm and plans)
    backend = choose_backend(options.engine) if measures else None
    if backend is not None and options.branch_norm:
        plans = _normalised(training, weights, plans, norm, options.branch_norm, backend)
    edit = _Edit({plan.name: plan.parts for plan in plans}, norm, parent[1].iter if parent is not None else 0)

    documents = [(path, edit.applied_to(net)) for path, net in files.nets]
    derived = documents[0][1]
    texts: dict[str, bytes] = {}
    for path, document in [*documents, *files.solver]:
        _put(texts, path, document)
    here = {layer.name for layer in all_layers(training.net)}
    kept_states = () if parent is None else _kept_watchers(training.net, edit.splits)
    kept = _whole({name: weights[name] for name in weights if name in here}, weights, training)
    blobs = derived_weights(kept, edit.splits, kept_states)
    state, read = None, list(files.read)
    if parent is not None:
        complete_states(blobs, derived, parent[1].iter)
        assert training.solver is not None
        state = continued(
            *parent,
            (training.net, weights),
            (derived, blobs),
            {plan.name: (plan.partition, plan.parts) for plan in plans},
            learned_net=str(out / WEIGHTS_NAME),
            solver_type=solver_type(training.solver),
            trained_in=training.state,
        )
        read.append(parent[0])
    return DerivePlan(
        net_path=training.net_path,
        solver_path=training.solver_path,
        weights_path=source.path,
        iteration=source.iteration,
        out=out,
        options=options,
        layers=tuple(plans),
        before=Cost.of(infer_shapes(training.train_layers(), inputs)),
        after=Cost.of(infer_shapes(phase_layers(derived, training.state), inputs)),
        texts=texts,
        weights=blobs,
        types={layer.name: layer.type for layer in all_layers(derived)},
        state=state,
        inputs=tuple(path for path in (*read, source.path) if path.is_file()),
        notes=files.notes,
        engine=None if backend is None else backend.name,
        saliency=known.saliency,
        warnings=known.doubts,
        state_split=training.state,
    )


def _whole(kept: Blobs, weights: Blobs, training: Training) -> Blobs:
    """`kept` with the values of shared blobs in each layer that has them: an HDF5 snapshot has them once."""
    if not (isinstance(weights, Weights) and weights.shared):
        return kept
    blobs = {name: list(kept[name]) for name in kept}
    settle_shared([training.net], blobs, training.state)
    return blobs


def _check_trained(training: Training, layers: Sequence[Layer], weights: Blobs, path: Path) -> None:
    """Raises `CaffeSplitError` for a layer outside the net's state whose weights do not fit.

    Without a solver the stages are unknown, see `state_to_split`; a layer then counts as trained if it has weights that
    fit.
    """
    built = {layer.name for layer in training.train_layers()}
    for layer in layers:
        if layer.name not in built:
            check_convolution(layer, weights.get(layer.name, ()), path)


@dataclass(frozen=True)
class _Edit:
    """What is done to every document in the same way."""

    splits: Mapping[str, Sequence[Part]]
    norm: NormSettings
    watch_from: int = 0

    def applied_to(self, document: prototxt.Document) -> prototxt.Document:
        """A copy of the document with the splits in it; splits of layers that it does not have are left out."""
        copy = document.copy()
        present = {layer.name for layer in all_layers(copy)}
        splits = {name: parts for name, parts in self.splits.items() if name in present}
        rewrite(copy, splits, self.norm, self.watch_from)
        return copy


def norm_settings(document: prototxt.Document) -> NormSettings:
    """The settings of the first BatchNorm layer of the net that has any; Caffe's defaults where none has."""
    for layer in all_layers(document):
        param = layer.message.sub("batch_norm_param")
        sets = param is not None and (param.has("eps") or param.has("moving_average_fraction"))
        if layer.type == "BatchNorm" and param is not None and sets:
            return NormSettings(float(param.get("eps", 1e-5)), float(param.get("moving_average_fraction", 0.999)))
    return NormSettings()


def _normalised(
    training: Training,
    weights: Blobs,
    plans: Sequence[LayerPlan],
    norm: NormSettings,
    batches: int,
    backend: Backend,
) -> list[LayerPlan]:
    """The plans with normalised branches, their statistics measured on the net split without them."""
    need_training_data(training, "--branch-norm", ", and this one as --deploy")
    splits = {plan.name: plan.parts for plan in plans}
    ends = [name for parts in splits.values() for name in branch_ends(parts)]
    with scratch() as folder:
        net, path = folder / "net.prototxt", folder / WEIGHTS_NAME
        derived = _Edit(splits, norm).applied_to(training.net)
        remove_watchers(derived)
        prototxt.write(derived, net)
        caffemodel.write_weights(path, derived_weights(weights, splits))
        statistics = backend.channel_statistics(NetFiles(net, path), ends, batches, training.state)
    return [replace(plan, parts=tuple(normalised(plan.parts, statistics, norm))) for plan in plans]


def _parent_state(training: Training, weights: Path, iteration: int | None) -> tuple[Path, SolverState]:
    if training.solver is None:
        raise CaffeSplitError(f"{training.net_path}: --schedule continue needs the solver that trained it. Name it.")
    return parent_state(weights, iteration, training.solver.get("max_iter", None))


def _kept_watchers(document: prototxt.Document, splits: Mapping[str, Sequence[Part]]) -> list[str]:
    """The TPM layers that go on watching in the derived net."""
    return [watcher.name for name, watcher in watchers(document).items() if name not in splits]


def _put(texts: dict[str, bytes], path: Path, document: prototxt.Document) -> None:
    data = document.to_bytes()
    if texts.setdefault(path.name, data) != data:
        raise CaffeSplitError(f"{path}: the new folder would have two files of the name {path.name}; rename one.")
