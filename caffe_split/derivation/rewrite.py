"""Writing a split into a document: the parts' text in the place of the layer that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.geometry import HEIGHT_AND_WIDTH, convolution_geometry
from caffe_split.net.layers import Layer, all_layers
from caffe_split.net.state import TEST, TRAIN
from caffe_split.split import naming
from caffe_split.split.branch_norm import NormSettings
from caffe_split.split.parts import Form, Part
from caffe_split.tpm.layers import Windows, add_watchers, remove_watchers, watchers, windows_of


def rewrite(
    document: prototxt.Document,
    splits: Mapping[str, Sequence[Part]],
    norm: NormSettings | None = None,
    watch_from: int = 0,
) -> None:
    """Put the parts of `splits` (layer name -> its parts) in the place of the layers, wherever those occur.

    A part with X's geometry gets X's own text, comments included; all new layers get X's include and exclude rules.
    Where a TPM layer watched X, the parts with X's geometry are watched over the same windows, except windows that
    start before iteration `watch_from`. `norm` is for the parts that normalise. Nothing else changes. Raises
    `CaffeSplitError` where a new name is taken, and where the layer is another convolution than the one split.
    """
    layers = all_layers(document)
    windows = {name: windows_of(watcher) for name, watcher in watchers(document).items() if name in splits}
    remove_watchers(document, list(windows))
    taken = {layer.name for layer in layers} | {blob for layer in layers for blob in layer.bottoms + layer.tops}
    by_name: dict[str, list[Layer]] = {}
    for layer in layers:
        by_name.setdefault(layer.name, []).append(layer)
    for name, parts in splits.items():
        made = {part.name for part in parts} | {part.top for part in parts[:-1]}
        if made & taken:
            raise CaffeSplitError(
                f"{document.filename}: splitting '{name}' makes layers or blobs named "
                f"{', '.join(sorted(made & taken))}, which exist. Rename them."
            )
        own = by_name.get(name, [])
        _check_phases(document, own)
        for layer in own:
            _check_alike(document, layer, parts)
            document.replace(
                layer.field, [_field(part, layer, norm or NormSettings()) for part in _between(parts, layer)]
            )
    watched: dict[Windows, dict[str, tuple[int, ...]]] = {}
    for name, window in windows.items():
        later = replace(window, pairs=tuple(pair for pair in window.pairs if pair[0] >= watch_from))
        if later.pairs:
            copies = {part.name: part.blobs[0].shape for part in splits[name] if part.form == "copy"}
            watched.setdefault(later, {}).update(copies)
    for window, shapes in watched.items():
        add_watchers(document, shapes, window)


def _check_phases(document: prototxt.Document, occurrences: Sequence[Layer]) -> None:
    """Raises `CaffeSplitError` where two layers of one name would be in the same net."""
    for state in (TRAIN, TEST):
        both = [layer for layer in occurrences if layer.runs_in(state)]
        if len(both) > 1:
            raise CaffeSplitError(
                f"{document.filename}: {both[0].where} and {both[1].where} have one name in the {state.phase} phase, "
                "which Caffe refuses. Rename one."
            )


def _check_alike(document: prototxt.Document, layer: Layer, parts: Sequence[Part]) -> None:
    """Raises `CaffeSplitError` where another occurrence of a split layer is not the same convolution."""
    copy = parts[0]
    if layer.type != "Convolution":
        raise CaffeSplitError(
            f"{document.filename}: {layer.where} is a {layer.type} layer here, and a Convolution in the net that is "
            "split. Do the files belong together?"
        )
    param = layer.message.sub("convolution_param")
    # Of a layer that was not divided the slow half is the whole.
    halves = naming.fast_half(layer.name), naming.slow_half(layer.name)
    count = sum(part.num_output for part in parts if part.name in halves)
    found = (int(param.get("num_output", 0)) if param else 0, convolution_geometry(layer), _has_bias(layer))
    if found != (count, copy.geometry, len(copy.blobs) == 2) or len(layer.bottoms) != 1 or len(layer.tops) != 1:
        raise CaffeSplitError(
            f"{document.filename}: {layer.where} is another convolution here: found {found[0]} kernels, {found[1]}, "
            f"{'bias' if found[2] else 'no bias'}, expected {count}, {copy.geometry}, "
            f"{'bias' if len(copy.blobs) == 2 else 'no bias'}. Do the files belong together?"
        )


def _has_bias(layer: Layer) -> bool:
    param = layer.message.sub("convolution_param")
    return bool(param.get("bias_term", True)) if param is not None else True


def _between(parts: Sequence[Part], layer: Layer) -> list[Part]:
    """The parts between the bottom and the top of this occurrence of the layer, which may have other names there."""
    bottom, top = parts[0].bottoms[0], parts[-1].top
    return [
        replace(
            part,
            bottoms=tuple(layer.bottoms[0] if name == bottom else name for name in part.bottoms),
            top=layer.tops[0] if part.top == top else part.top,
        )
        for part in parts
    ]


def _field(part: Part, layer: Layer, norm: NormSettings) -> prototxt.Field:
    if part.form == "copy":
        return _copy(part, layer)
    settings: list[tuple[str, object]] = [("name", part.name), ("type", _TYPES[part.form])]
    settings += [("bottom", bottom) for bottom in part.bottoms] + [("top", part.top)]
    if part.form == "helper" and part.bottoms == layer.bottoms:
        # A layer that reads X's bottom passes gradient to it only where X does.
        settings += [("propagate_down", value) for value in layer.message.get_all("propagate_down")]
    if part.form == "helper":
        settings.append(("param", _multipliers(layer, 0, part.lr, part.frozen)))
    if part.form == "scale":
        settings += [("param", _multipliers(layer, index)) for index in range(2)]
        settings.append(("scale_param", [("bias_term", True)]))
    if part.form == "batch_norm" and norm != NormSettings():
        changed = [(key, value) for key, value in vars(norm).items() if value != getattr(NormSettings(), key)]
        settings.append(("batch_norm_param", changed))
    if part.form == "sum":
        settings.append(("eltwise_param", [("operation", prototxt.Enum("SUM"))]))
    if part.form == "helper":
        settings.append(("convolution_param", _convolution_settings(part)))
    field = prototxt.field("layer", settings)
    message = field.message
    assert message is not None
    for key in ("include", "exclude"):
        after = message.all_fields("top")[-1]
        for rule in layer.message.all_fields(key):
            message.insert_after(after, rule.copy())
            after = message.all_fields(key)[-1]
    return field


_TYPES: dict[Form, str] = {
    "helper": "Convolution",
    "sum": "Eltwise",
    "concat": "Concat",
    "relu": "ReLU",
    "batch_norm": "BatchNorm",
    "scale": "Scale",
}


def _multipliers(layer: Layer, index: int, lr: float = 1, frozen: bool = False) -> list[tuple[str, object]]:
    """lr_mult and decay_mult of a new parameter: 0 when frozen, else those of the split layer's, lr_mult times `lr`.

    `index` 0 is the weight, 1 the bias; without a bias the weight's serve.
    """
    if frozen:
        return [("lr_mult", 0), ("decay_mult", 0)]
    specs = layer.message.subs("param")[: index + 1]
    own, decay = ((specs[-1].get(key, 1) if specs else 1) for key in ("lr_mult", "decay_mult"))
    return [("lr_mult", _times(own, lr)), ("decay_mult", decay)]


def _times(multiplier: float, lr: float) -> float:
    """Their product as Caffe's float holds it; what is not changed stays as the file has it."""
    return multiplier if lr == 1 else float(f"{multiplier * lr:.7g}")


def _convolution_settings(part: Part) -> list[tuple[str, object]]:
    geometry = part.geometry
    assert geometry is not None
    settings: list[tuple[str, object]] = [("num_output", part.num_output), ("bias_term", False)]
    settings += _sides("kernel_size", geometry.kernel, None)
    settings += _sides("pad", geometry.pad, 0)
    settings += _sides("stride", geometry.stride, 1)
    if geometry.dilation != (1, 1):
        settings += [("dilation", side) for side in geometry.dilation]
    if geometry.group != 1:
        settings.append(("group", geometry.group))
    return settings


def _sides(both: str, sides: tuple[int, int], default: int | None) -> list[tuple[str, object]]:
    if sides == (default, default):
        return []
    return [(both, sides[0])] if sides[0] == sides[1] else list(zip(HEIGHT_AND_WIDTH[both], sides))


def _copy(part: Part, layer: Layer) -> prototxt.Field:
    """The split layer's own text with the part's name, top and number of kernels."""
    field = layer.field.copy()
    message = field.message
    assert message is not None
    message.set("name", part.name)
    message.set("top", part.top)
    param = message.sub("convolution_param")
    assert param is not None
    layer_count = int(param.get("num_output", 0))
    param.set("num_output", part.num_output)
    has_bias = len(part.blobs) == 2
    if not has_bias and param.get("bias_term", True):
        param.set("bias_term", False)
        param.remove("bias_filler")
        for extra in message.all_fields("param")[1:]:
            message.remove(extra)
    if part.lr != 1 and not message.has("param"):
        message.insert_after(message.all_fields("top")[-1], prototxt.field("param", {"lr_mult": 1}))
    whole = part.name == naming.slow_half(layer.name) and part.num_output == layer_count
    if part.name == naming.fast_half(layer.name) or whole:
        # It keeps the parameters' own names, which nothing else has, so that folding gives X's text back.
        return field
    for spec in message.subs("param"):
        # A parameter's own name would tie the parts together.
        spec.remove("name")
        if part.lr != 1:
            spec.set("lr_mult", _times(spec.get("lr_mult", 1), part.lr))
    for spec_field in reversed(message.all_fields("param")):
        # An empty one in front of others keeps their places: the first is the weight's, the second the bias's.
        if spec_field.message is None or spec_field.message.fields:
            break
        message.remove(spec_field)
    return field
