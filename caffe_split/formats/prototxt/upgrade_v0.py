"""Nets of 2013, `layers { layer { name type ... } bottom top }`, upgraded to the form of 2014 (V1).

In V0 one message held the options of every layer type; each moves to the message of its type. What Caffe drops is
dropped here too, and reported: options that the layer's type does not have, and all fields of the net except its
name, inputs, layers and force_backward.
"""

from __future__ import annotations

from caffe_split.formats.prototxt import layout
from caffe_split.formats.prototxt.old_types import V0_TYPES
from caffe_split.formats.prototxt.tree import Field, Message, build

_CONV, _POOL, _IP, _LRN = "convolution_param", "pooling_param", "inner_product_param", "lrn_param"
_WINDOW, _IMAGES = "window_data_param", "image_data_param"
_BATCHED = {"data": "data_param", "hdf5_data": "hdf5_data_param", "images": _IMAGES, "window_data": _WINDOW}

# Field of V0 -> its new name, and for each layer type that has it the message it goes to.
_OPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", {"conv": _CONV, "innerproduct": _IP}),
    "biasterm": ("bias_term", {"conv": _CONV, "innerproduct": _IP}),
    "weight_filler": ("weight_filler", {"conv": _CONV, "innerproduct": _IP}),
    "bias_filler": ("bias_filler", {"conv": _CONV, "innerproduct": _IP}),
    "pad": ("pad", {"conv": _CONV, "pool": _POOL}),
    "kernelsize": ("kernel_size", {"conv": _CONV, "pool": _POOL}),
    "group": ("group", {"conv": _CONV}),
    "stride": ("stride", {"conv": _CONV, "pool": _POOL}),
    "pool": ("pool", {"pool": _POOL}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", {"lrn": _LRN}),
    "alpha": ("alpha", {"lrn": _LRN}),
    "beta": ("beta", {"lrn": _LRN}),
    "k": ("k", {"lrn": _LRN}),
    "source": ("source", {**_BATCHED, "infogain_loss": "infogain_loss_param"}),
    "batchsize": ("batch_size", _BATCHED),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": _IMAGES}),
    "shuffle_images": ("shuffle", {"images": _IMAGES}),
    "new_height": ("new_height", {"images": _IMAGES}),
    "new_width": ("new_width", {"images": _IMAGES}),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", {"window_data": _WINDOW}),
    "det_bg_threshold": ("bg_threshold", {"window_data": _WINDOW}),
    "det_fg_fraction": ("fg_fraction", {"window_data": _WINDOW}),
    "det_context_pad": ("context_pad", {"window_data": _WINDOW}),
    "det_crop_mode": ("crop_mode", {"window_data": _WINDOW}),
}
# Every layer type may have these, even where it does not read them.
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
# These stay fields of the layer itself.
_KEPT = ("name", "blobs", "blobs_lr", "weight_decay")
_NET_FIELDS = ("name", "layers", "input", "input_dim", "force_backward")


def upgrade(net: Message) -> list[str]:
    """Bring a V0 net to V1 in place; returns what was done and what was dropped."""
    notes = ["layers of 2013 (V0) brought to the form of 2014"]
    notes += _fold_padding(net)
    for field in net.all_fields("layers"):
        if field.message is not None:
            notes += _upgrade_layer(field.message)
    known = net.type.fields if net.type is not None else {}
    for field in net.fields:
        if field.name not in _NET_FIELDS and field.name in known:
            notes.append(f"line {field.line}: {field.name} dropped, as Caffe drops it from a V0 net")
            net.remove(field, keep_comment=True)
    net.forget_types()
    return notes


def _option(layer: Message, name: str) -> object:
    inner = layer.sub("layer")
    return inner.get(name) if inner is not None else ""


def _fold_padding(net: Message) -> list[str]:
    """A padding layer becomes the `pad` of the convolution or pooling that reads it."""
    notes = []
    layers = [f for f in net.all_fields("layers") if f.message is not None]
    maker: dict[str, Field | None] = dict.fromkeys(net.get_all("input"))
    for field in layers:
        layer = field.message
        assert layer is not None
        kind = _option(layer, "type")
        for bottom in layer.get_all("bottom"):
            if bottom not in maker:
                raise field.error(f"a layer reads {bottom!r}, which no layer above it makes")
            source_field = maker[bottom]
            source = source_field.message if source_field is not None else None
            if source is None or _option(source, "type") != "padding":
                continue
            if kind not in ("conv", "pool") or len(layer.get_all("bottom")) != 1:
                raise field.error("only a convolution or a pooling with one bottom can read a padding layer")
            if len(source.get_all("bottom")) != 1 or len(source.get_all("top")) != 1:
                raise field.error("a padding layer must have one bottom and one top")
            inner = layer.sub("layer")
            assert inner is not None
            inner.set("pad", _option(source, "pad"))
            layer.set("bottom", source.get("bottom"))
            notes.append(f"line {field.line}: took over the pad of a padding layer")
        for top in layer.get_all("top"):
            maker[top] = field
    for field in layers:
        if field.message is not None and _option(field.message, "type") == "padding":
            net.remove(field, keep_comment=True)
    return notes


def _upgrade_layer(layer: Message) -> list[str]:
    notes: list[str] = []
    old = layer.field("layer")
    known = layer.type.fields if layer.type is not None else {}
    for field in layer.fields:
        if field.name not in ("bottom", "top", "layer") and field.name in known:
            notes.append(f"line {field.line}: {field.name} dropped, as Caffe drops it from a V0 layer")
            layer.remove(field, keep_comment=True)
    if old is None or old.message is None:
        return notes
    inner = old.message
    kind = str(inner.get("type"))
    made: list[Field] = []
    groups: dict[str, list[Field]] = {}
    v0_fields = inner.type.fields if inner.type is not None else {}
    for field in inner.fields:
        moved = field.copy()
        target = None
        if field.name == "type":
            if kind not in V0_TYPES:
                raise field.error(f"{kind!r} is none of Caffe's V0 layer types: {', '.join(V0_TYPES)}")
            made.append(build("type", V0_TYPES[kind]))
            continue
        if field.name in _KEPT or field.name not in v0_fields:
            made.append(moved)
            continue
        if field.name in _TRANSFORM:
            moved.name, target = _TRANSFORM[field.name], "transform_param"
        elif field.name == "hdf5_output_param" and kind == "hdf5_output":
            made.append(moved)
            continue
        elif field.name in _OPTIONS and kind in _OPTIONS[field.name][1]:
            moved.name, target = _OPTIONS[field.name][0], _OPTIONS[field.name][1][kind]
        if target is None:
            notes.append(f"line {field.line}: {field.name} dropped, a layer of type {kind} has no such option")
        elif target in groups:
            groups[target].append(moved)
        else:
            groups[target] = [moved]
            made.append(Field(target, Message(None)))
    for field in made:
        if field.name in groups and isinstance(field.value, Message) and not field.value.fields:
            field.hold(build(field.name, groups[field.name]).value)
    lost = layout.comments_of("".join([*(f.lead or "" for f in inner.fields), inner.tail]))
    layer.replace(old, made)
    if lost and made:
        layer.add_comments(made[0], lost)
    return notes
