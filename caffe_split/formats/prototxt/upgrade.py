"""Old nets and solvers upgraded to today's form, by edits of the document: what Caffe does when it loads them.

The steps are in Caffe's order, because each works on the result of the one before: V0 layers to V1, old fields
of data layers to `transform_param`, `layers` to `layer`, `input` to an Input layer, BatchNorm's three
`param`s, and in solvers the enum `solver_type` to `type`.
"""

from __future__ import annotations

from caffe_split.formats.prototxt import upgrade_v0
from caffe_split.formats.prototxt.document import Document
from caffe_split.formats.prototxt.old_types import V1_TYPES, V1_TYPES_OF_FORKS
from caffe_split.formats.prototxt.tree import Message, build, build_line

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}
_DATA_PARAMS = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
_TYPES = {**V1_TYPES_OF_FORKS, **V1_TYPES}
_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")
# Fields of a V1 layer with one value per weight -> the field of `param { ... }` that took its place.
_PER_WEIGHT = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


def upgrade(document: Document, fork_types: bool = False) -> list[str]:
    """Bring a net or solver to the form of today, in place; nothing changes where nothing is old.

    Returns one line per thing done or dropped, none for a document of today. The inline nets of a solver stay as
    they are, as in Caffe. Raises `CaffeSplitError` where Caffe would refuse the file: `layer`
    and `layers` in one net, layer types it does not know (unless `fork_types`: a fork's old type then keeps its name,
    as a string), a solver with both `type` and `solver_type`.

    >>> from caffe_split.formats import prototxt
    >>> net = prototxt.parse('layers { name: "r" type: RELU bottom: "a" top: "a" } # in place')
    >>> upgrade(net)
    ['layers became layer (1 layers)']
    >>> print(net)
    layer { name: "r" type: "ReLU" bottom: "a" top: "a" } # in place
    """
    if document.kind == "solver":
        return _upgrade_solver(document)
    notes: list[str] = []
    refuse_mixed(document)
    if any(layer.has("layer") for layer in document.subs("layers")):
        notes += upgrade_v0.upgrade(document)
    notes += _upgrade_transforms(document)
    notes += _upgrade_v1(document, fork_types)
    notes += _upgrade_inputs(document)
    notes += _upgrade_batch_norm(document)
    return notes


def upgrade_old(document: Document, fork_types: bool = False) -> list[str]:
    """`upgrade` a net with old layers or `input` fields; leave a net of today as it is written.

    Caffe changes one thing in a net of today, each time it loads it: it sets the multipliers of BatchNorm's statistics
    to 0. That needs no rewriting of the file.
    """
    return upgrade(document, fork_types) if document.has("layers") or document.has("input") else []


def upgraded(document: Document) -> Document:
    """A copy of a net as `upgrade_old` makes it for reading; its fields keep the lines they were read from."""
    copy = document.copy()
    upgrade_old(copy, fork_types=True)
    return copy


def types_of_forks(net: Message) -> list[str]:
    """The types of old layers that Caffe does not have: what they are called in today's form is not known."""
    found = [_type_of(layer) for layer in net.subs("layers") if layer.has("type") and not layer.has("layer")]
    return list(dict.fromkeys(name for name in found if name not in _TYPES))


def refuse_mixed(net: Message) -> None:
    """Raise when a net has both `layer` and `layers`, of which Caffe would take only one kind."""
    new, old = net.field("layer"), net.field("layers")
    if new is not None and old is not None:
        first = net.all_fields("layers")[0]
        other = net.all_fields("layer")[0]
        raise first.error(
            f"`layers` (old form) here and `layer` (new form) at line {other.line} in one net; Caffe refuses "
            "it or drops one kind: write all layers in one form"
        )


def _upgrade_solver(document: Document) -> list[str]:
    old = document.field("solver_type")
    if old is None:
        return []
    if document.has("type"):
        raise old.error("the solver has both `solver_type` (old form) and `type`; remove one")
    name = document.get("solver_type")
    if name not in _SOLVER_TYPES:
        raise old.error(f"there is no solver_type {name}; expected one of {', '.join(_SOLVER_TYPES)}")
    old.name = "type"
    document.forget_types()
    document.set("type", _SOLVER_TYPES[name])
    return [f"solver_type: {name} became type"]


def _upgrade_transforms(net: Message) -> list[str]:
    """Move scale, mean_file, crop_size and mirror of V1 data layers into transform_param."""
    layers = []
    needed = False
    for layer in net.subs("layers"):
        param = _DATA_PARAMS.get(_type_of(layer))
        if param is None:
            continue
        layers.append((layer, param))
        sub = layer.sub(param)
        needed |= sub is not None and any(sub.has(name) for name in _TRANSFORMS)
    if not needed:
        return []
    for layer, param in layers:
        # In such a net Caffe gives both messages to every data layer, even empty ones.
        source = layer.sub(param)
        if source is None:
            source = layer.add(param, {}).message
        target = layer.sub("transform_param")
        if target is None:
            target = layer.add("transform_param", {}).message
        assert source is not None and target is not None
        for name in _TRANSFORMS:
            moved = source.field(name)
            if moved is not None:
                old = target.field(name)
                copy = moved.copy()
                if old is not None:
                    target.replace(old, [copy])
                else:
                    target.append(copy)
                source.remove(name, keep_comment=True)
    return ["scale, mean_file, crop_size and mirror moved to transform_param"]


def _type_of(layer: Message) -> str:
    return str(layer.get("type", ""))


def _upgrade_v1(net: Message, fork_types: bool) -> list[str]:
    layers = net.subs("layers")
    types = [_new_type(layer, fork_types) for layer in layers]
    for layer in layers:
        _upgrade_weights_options(layer)
        if layer.has("layer"):
            layer.remove("layer", keep_comment=True)
    for field in net.all_fields("layers"):
        field.name = "layer"
    net.forget_types()
    for layer, new_type in zip(layers, types):
        if new_type is not None:
            layer.set("type", new_type)
    return [f"layers became layer ({len(layers)} layers)"] if layers else []


def _new_type(layer: Message, fork_types: bool) -> str | None:
    kind = layer.field("type")
    if kind is None:
        return None
    name = _type_of(layer)
    if name not in _TYPES and fork_types:
        return name
    if name not in _TYPES:
        raise kind.error(
            f"layer type {name} is none of the old types that are known, so its name in the new form is not known; "
            'write the layers in the new form: layer { type: "..." }'
        )
    return _TYPES[name]


def _upgrade_weights_options(layer: Message) -> None:
    """Turn the old lists with one value per weight into one `param { ... }` per weight."""
    old_fields = [f for f in layer.fields if f.name in _PER_WEIGHT]
    if not old_fields:
        return
    specs: list[list[tuple[str, object]]] = []
    for old, new in _PER_WEIGHT.items():
        for index, value in enumerate(layer.get_all(old)):
            while len(specs) <= index:
                specs.append([])
            specs[index].append((new, value))
    params = [build_line("param", spec, layer) for spec in specs]
    for other in old_fields[1:]:
        layer.remove(other, keep_comment=True)
    if params:
        layer.replace(old_fields[0], params)
    else:
        layer.remove(old_fields[0], keep_comment=True)


def _upgrade_inputs(net: Message) -> list[str]:
    names = net.get_all("input")
    if not names:
        return []
    shapes = net.subs("input_shape")
    dims = net.get_all("input_dim")
    old = [f for f in net.fields if f.name in ("input", "input_dim", "input_shape")]
    if shapes or dims:
        items: list[tuple[str, object]] = [("name", "input"), ("type", "Input")]
        items += [("top", name) for name in names]
        param: list[tuple[str, object]] = []
        for index in range(len(names)):
            if shapes:
                if index >= len(shapes):
                    raise old[0].error(f"{len(names)} inputs, but only {len(shapes)} input_shape")
                param.append(("shape", [("dim", dim) for dim in shapes[index].get_all("dim")]))
            else:
                four = dims[4 * index : 4 * index + 4]
                if len(four) < 4:
                    raise old[0].error(f"{len(names)} inputs need {4 * len(names)} input_dim, found {len(dims)}")
                param.append(("shape", [("dim", dim) for dim in four]))
        items.append(("input_param", param))
        layer = build("layer", items)
        first_layer = next(iter(net.all_fields("layer")), None)
        before = next(f for f in net.fields if f is old[0] or f is first_layer)
        if before is old[0]:
            for field in old[1:]:
                net.remove(field, keep_comment=True)
            net.replace(old[0], [layer])
        else:
            net.insert_before(before, layer)
            for field in old:
                net.remove(field, keep_comment=True)
        return ["input became a layer of type Input"]
    for field in old:
        net.remove(field, keep_comment=True)
    return ["input without a shape was dropped"]


def _upgrade_batch_norm(net: Message) -> list[str]:
    notes = []
    for layer in net.subs("layer"):
        if layer.get("type", "") == "BatchNorm" and len(layer.subs("param")) == 3:
            for param in layer.subs("param"):
                if param.get("lr_mult", None) != 0 or param.get("decay_mult", None) != 0:
                    param.set("lr_mult", 0)
                    param.set("decay_mult", 0)
                    notes.append(f"BatchNorm layer {layer.get('name')!r}: lr_mult and decay_mult set to 0")
    return notes
