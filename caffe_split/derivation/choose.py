"""Choosing the convolutions that are split: by name, by the entropy of their TPM, by their saliency, or by chance."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from caffe_split.derivation.choice import parse_choice
from caffe_split.derivation.options import DEFAULTS, DeriveOptions
from caffe_split.errors import CaffeSplitError, counted
from caffe_split.formats import prototxt
from caffe_split.layertypes.foreign import foreign_fields
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.layers import Layer, all_layers, convolutions, sharers
from caffe_split.net.state import NetState
from caffe_split.net.training import Training
from caffe_split.split.kinds import kind_of
from caffe_split.split.partition import parse_rule
from caffe_split.split.recognise import helper_names
from caffe_split.split.saliency import Saliency
from caffe_split.tpm.report import ranked
from caffe_split.tpm.scores import LayerScores
from caffe_split.tpm.trust import kernels_alike

# Settings that may be written once per axis.
_PER_AXIS = ("kernel_size", "stride", "pad", "dilation")


def why_not(
    layer: Layer, layers: Sequence[Layer], helpers: Collection[str], options: DeriveOptions = DEFAULTS
) -> str | None:
    """Why a convolution cannot be split as `options` say, or None; `helpers` are the net's `helper_names`."""
    if layer.type != "Convolution":
        return f"its type is {layer.type}"
    if layer.name in helpers:
        return "it is a helper of an earlier split"
    strange = list(dict.fromkeys(problem.path for problem in foreign_fields(layer)))
    if strange:
        return f"what its {', '.join(strange)} does is known to a fork of Caffe only"
    specs = layer.message.subs("param")
    if specs and specs[0].get("lr_mult", 1) == 0:
        return "it is frozen (lr_mult 0)"
    if len(layer.bottoms) != 1 or len(layer.tops) != 1:
        return f"it has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops"
    if layer.tops == layer.bottoms:
        return "it works in place: its bottom, which every branch reads, is its top; give the top a name of its own"
    if layer.message.has("loss_weight"):
        return "its top is a loss"
    shared = sharers(layers, layer)
    if shared:
        return f"it shares its weight with {', '.join(shared)}"
    param = layer.message.sub("convolution_param")
    axes = max((len(param.get_all(name)) for name in _PER_AXIS), default=0) if param else 0
    if axes > 2:
        return f"it slides over {axes} axes; only 2-D convolutions can be split"
    try:
        geometry = convolution_geometry(layer)
    except CaffeSplitError as error:
        text = str(error).rstrip(".")
        return text.removeprefix(f"{layer.where}: ").replace(f"{layer.where} ", "it ", 1)
    kernels = int(param.get("num_output", 0)) if param else 0
    if kernels // geometry.group < 2 and not parse_rule(options.partition).whole:
        reason = "depthwise, one kernel a group" if geometry.group > 1 else "it has one kernel"
        return f"{reason}; partition all does not divide it"
    return kind_of(options.kind).why_not(geometry) or None


def expect_differences(layers: Sequence[Layer], scores: Sequence[LayerScores]) -> None:
    """Raises `CaffeSplitError` for layers whose kernels all have the same TPM: they would be divided by their index."""
    names = {layer.name for layer in layers}
    alike = [score for score in scores if score.layer in names and kernels_alike(score)]
    if alike:
        first = alike[0]
        raise CaffeSplitError(
            f"all kernels of {', '.join(score.layer for score in alike)} have the same TPM over the window "
            f"{first.start}:{first.stop} (N = {first.steps}): it does not say which are fast. Give a window that does "
            "(--window START:STOP; `caffe-split tpm` names those that the snapshots allow), or divide them by chance: "
            "--partition random:SEED"
        )


def state_to_split(training: Training) -> NetState | None:
    """The state of the net whose convolutions are split; None where neither a solver nor the user says its stages."""
    return training.state if training.says_state else None


def candidates(
    document: prototxt.Document, options: DeriveOptions = DEFAULTS, state: NetState | None = None
) -> list[Layer]:
    """The convolutions that can be split as `options` say, in the net's order; those of `state` where it is known."""
    layers = all_layers(document)
    helpers = helper_names(layers)
    built = [layer for layer in layers if state is None or layer.runs_in(state)]
    return [layer for layer in convolutions(built) if why_not(layer, layers, helpers, options) is None]


def ranking(
    document: prototxt.Document,
    scores: Sequence[LayerScores],
    saliency: Sequence[Saliency],
    options: DeriveOptions = DEFAULTS,
    state: NetState | None = None,
) -> list[str]:
    """Names of layers, the best to split first, as `options.choose_by` has it; equal ones keep the net's order.

    `scores` and `saliency` may be empty where that does not look at them; `state` is as for `candidates`.
    """
    choice = parse_choice(options.choose_by)
    if choice.saliency:
        return [each.layer for each in sorted(saliency, key=lambda each: -each.whole[choice.saliency])]
    if choice.seed is not None:
        names = [layer.name for layer in candidates(document, options, state)]
        return [str(name) for name in np.random.default_rng(choice.seed).permutation(names)]
    return [score.layer for score in ranked(scores)]


def choose_layers(
    document: prototxt.Document,
    names: Sequence[str] | None,
    count: int,
    best: Sequence[str],
    options: DeriveOptions = DEFAULTS,
    state: NetState | None = None,
) -> list[Layer]:
    """The layers to split as `options` say, in the net's order: `names`, or the first `count` of `best` that can be.

    They are those of `state`, where it is known.
    Raises `CaffeSplitError` for a name that is not there or cannot be split, with the names of those that can, and
    where fewer than `count` of `best` can be split.
    """
    layers = all_layers(document)
    possible = {layer.name: layer for layer in candidates(document, options, state)}
    listing = ", ".join(possible) or "none"
    if names is not None:
        for name in names:
            if name not in possible:
                found = [layer for layer in layers if layer.name == name]
                reason = "there is no such layer"
                if found and state is not None and not any(layer.runs_in(state) for layer in found):
                    reason = (
                        f"{found[0].where} is not in the net of {state.words}; its include or exclude rules leave it "
                        "out"
                    )
                elif found:
                    reason = why_not(found[0], layers, helper_names(layers), options) or reason
                raise CaffeSplitError(f"layer '{name}' cannot be split: {reason}. Those that can: {listing}.")
        return [layer for name, layer in possible.items() if name in names]
    chosen = [name for name in best if name in possible][:count]
    if not possible:
        raise CaffeSplitError(f"{document.filename}: no layer can be split{_reasons(layers, options, state)}.")
    if len(chosen) < count:
        choice = parse_choice(options.choose_by)
        more = "Watch more layers with `caffe-split instrument`, or split fewer." if choice.by_tpm else "Split fewer."
        raise CaffeSplitError(
            f"{counted(len(chosen), 'layer')} can be split by {options.choose_by} "
            f"({', '.join(chosen) or 'none'}), {count} were asked for. Layers that can be split: {listing}. {more}"
        )
    return [layer for name, layer in possible.items() if name in chosen]


def _reasons(layers: Sequence[Layer], options: DeriveOptions, state: NetState | None) -> str:
    """Why none of the convolutions can be split, as the end of a sentence."""
    found: dict[str, list[str]] = {}
    for layer in convolutions([layer for layer in layers if state is None or layer.runs_in(state)]):
        found.setdefault(why_not(layer, layers, helper_names(layers), options) or "", []).append(layer.name)
    told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in found.items())
    return f": {told}" if told else ", since it has no convolution"
