"""TPM layers in a net: adding them, finding what they watch, taking them out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer, all_layers, find_layer

# The TPM layer of convolution X is X_tpm; it shares X's weight under the name X_tpm_w where X has given it none.
SUFFIX = "_tpm"
SHARED_SUFFIX = "_tpm_w"
# The name where an empty `param {}` stood there: it makes --remove leave the `param`.
KEPT_SUFFIX = "_tpm_weight"


@dataclass(frozen=True)
class Windows:
    """When TPM layers sample: pairs (start, stop) of iterations, ascending; a sample every `interval` iterations.

    `iter_size` is the solver's.
    """

    pairs: tuple[tuple[int, int], ...]
    interval: int = 1
    iter_size: int = 1

    def last_sample(self, window: tuple[int, int]) -> int:
        """The iteration of a window's last sample: before its stop where the interval does not divide it."""
        start, stop = window
        return stop - (stop - start) % self.interval


def expect_pairs(windows: object) -> None:
    """Raises `CaffeSplitError` unless `windows` is a sequence of pairs (start, stop) with start < stop."""
    if not isinstance(windows, Sequence) or not all(_is_pair(window) for window in windows):
        raise CaffeSplitError(
            "windows are pairs (start, stop) of iterations with start < stop, for example [(0, 1000)]; found "
            f"{windows!r}"
        )


def _is_pair(window: object) -> bool:
    if not isinstance(window, Sequence) or len(window) != 2 or not all(isinstance(at, int) for at in window):
        return False
    start, stop = window
    return bool(0 <= start < stop)


def add_watchers(document: prototxt.Document, shapes: Mapping[str, Sequence[int]], windows: Windows) -> list[str]:
    """Add a TPM layer for each layer of `shapes` (layer name -> shape of its weight), at the end of the net.

    Changes the document: the layer's first `param` gets a name if it has none. Returns the TPM layers' names.
    Raises `CaffeSplitError`, before anything is changed, for a layer that is not there, is written more than
    once, or is watched already.
    """
    layers = all_layers(document)
    watched = watchers(document)
    names = Counter(layer.name for layer in layers)
    by_name = {layer.name: layer for layer in reversed(layers)}
    for name in shapes:
        found = by_name.get(name) or find_layer(document, name)
        if names[name] > 1:
            raise CaffeSplitError(f"{found.where} is written {names[name]} times; a TPM layer needs one.")
        if name in watched:
            raise CaffeSplitError(
                f"{found.where} is watched already, by '{watched[name].name}'. Take that out first, by `caffe-split "
                "instrument --remove`, to change its window."
            )
        if name + SUFFIX in names:
            raise CaffeSplitError(f"{document.filename}: the name '{name}{SUFFIX}' is taken; rename that layer.")
    last = layers[-1].field
    for name, shape in shapes.items():
        layer = by_name[name]
        field = _watcher(name, _shared_name(layer), _rules(layer), shape, windows)
        document.insert_after(last, field)
        last = field
    return [name + SUFFIX for name in shapes]


def _shared_name(layer: Layer) -> str:
    """The name of the layer's weight, given here if it has none."""
    specs = layer.message.subs("param")
    name = str(specs[0].get("name", "")) if specs else ""
    if name:
        return name
    name = layer.name + SHARED_SUFFIX
    if specs:
        if not specs[0].fields:
            name = layer.name + KEPT_SUFFIX
        specs[0].set("name", name)
    else:
        # Before the layer's other settings, where a reader looks for it.
        tops = layer.message.all_fields("top")
        layer.message.add("param", [("name", name)], after=tops[-1])
    return name


Settings = list[tuple[str, object]]


def _rules(layer: Layer) -> Settings:
    """The include and exclude rules that have a TPM layer where the watched layer is, in the TRAIN phase."""
    phase = ("phase", prototxt.Enum("TRAIN"))
    rules: Settings = []
    for rule in layer.message.subs("include"):
        if rule.get("phase", "TRAIN") == "TRAIN":
            rules.append(("include", [phase, *_states(rule)]))
    for rule in layer.message.subs("exclude"):
        if rule.get("phase", "TRAIN") == "TRAIN":
            rules.append(("exclude", _states(rule)))
    if any(kind == "exclude" for kind, _ in rules):
        # Caffe takes rules of one kind in a layer.
        return [*rules, ("exclude", [("phase", prototxt.Enum("TEST"))])]
    return rules or [("include", [phase])]


def _states(rule: prototxt.Message) -> Settings:
    return [(key, value) for key in ("min_level", "max_level", "stage", "not_stage") for value in rule.get_all(key)]


def _watcher(name: str, shared: str, rules: Settings, shape: Sequence[int], windows: Windows) -> prototxt.Field:
    pairs = [(key, value) for pair in windows.pairs for key, value in zip(("start_iter", "stop_iter"), pair)]
    settings: list[tuple[str, object]] = [*pairs, ("interval", windows.interval)]
    if windows.iter_size != 1:
        settings.append(("iter_size", windows.iter_size))
    settings.append(("shape", [("dim", int(size)) for size in shape]))
    return prototxt.field(
        "layer",
        [
            ("name", name + SUFFIX),
            ("type", "TPM"),
            ("top", name + SUFFIX),
            ("param", [("name", shared)]),
            *rules,
            ("tpm_param", settings),
        ],
    )


def watchers(document: prototxt.Document) -> dict[str, Layer]:
    """Name of the watched layer -> its TPM layer."""
    layers = all_layers(document)
    owners: dict[str, str] = {}
    for layer in layers:
        for name in layer.param_names()[:1]:
            if name and layer.type != "TPM":
                owners.setdefault(name, layer.name)
    found = {}
    for layer in layers:
        shared = layer.param_names()
        if layer.type == "TPM" and shared and shared[0] in owners:
            found[owners[shared[0]]] = layer
    return found


def windows_of(watcher: Layer) -> Windows:
    """The windows of a TPM layer."""
    param = watcher.message.sub("tpm_param")
    if param is None:
        raise CaffeSplitError(f"{watcher.where} is a TPM layer without tpm_param.")
    pairs = zip(param.get_all("start_iter"), param.get_all("stop_iter"))
    return Windows(
        tuple((int(start), int(stop)) for start, stop in pairs),
        int(param.get("interval", 1)),
        int(param.get("iter_size", 1)),
    )


def remove_watchers(document: prototxt.Document, names: Sequence[str] | None = None) -> list[str]:
    """Take out the TPM layers of `names` (all when None), and the weight names that were given for them.

    The document gets back the text that `add_watchers` found. Returns the names of the layers no longer watched.
    """
    wanted = None if names is None else set(names)
    removed = {name: each for name, each in watchers(document).items() if wanted is None or name in wanted}
    for watcher in removed.values():
        document.remove(watcher.field, keep_blank=False)
    for layer in all_layers(document) if removed else []:
        if layer.name in removed:
            _forget_name(layer)
    return list(removed)


def _forget_name(layer: Layer) -> None:
    for field in layer.message.all_fields("param"):
        spec = field.message
        if spec is None:
            continue
        name = spec.get("name", "")
        if name == layer.name + KEPT_SUFFIX:
            spec.remove("name")
        elif name == layer.name + SHARED_SUFFIX:
            spec.remove("name")
            if not spec.fields:
                layer.message.remove(field)
