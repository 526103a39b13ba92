"""Finding the splits in a net by how its layers are wired.

X is split where X_reorder, a 1x1 convolution, alone puts in order what X_concat joins: X_split1, and X_split2 with an
added path as one of the kinds has it, all from one blob. A layer that is split without dividing it ends in the sum of
X_split2 and its added path, without a concat and a reorder; the last layer writes X's own top, so its top has another
name than the layer. Names say which layers to look at; wiring decides. A user's own layer that only has such a name is
a plain layer. The convolutions with X's geometry may have been split in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry, convolution_geometry
from caffe_split.net.graph import Graph
from caffe_split.net.layers import Layer
from caffe_split.net.state import PHASES
from caffe_split.split import naming
from caffe_split.split.kinds import KIND_NAMES, KindName, added_words, helper_words, kind_of
from caffe_split.split.parts import BOTTOM, SLOW
from caffe_split.split.wired import Member, Role, Split, last_layer

__all__ = ["Member", "Role", "Split", "all_splits", "find_splits", "helper_names", "kernels", "last_layer"]
__all__ += ["layer_roles", "near_misses"]


def all_splits(layers: Sequence[Layer] | Graph) -> list[Split]:
    """All splits, those inside others before these, in the order of their last layers.

    `layers` may be a phase's, or all of a document.
    """
    return _Reader(layers).found()


def find_splits(layers: Sequence[Layer] | Graph) -> list[Split]:
    """The splits that are in no other."""
    found = all_splits(layers)
    inside = {id(inner) for split in found for inner in split.inside}
    return [split for split in found if id(split) not in inside]


def layer_roles(layers: Sequence[Layer]) -> dict[str, Role]:
    """Name -> role of the convolutions that are parts of a split (of the innermost one), no other layers."""
    return {layers[at].name: role for each in all_splits(layers) for at, role in each.roles.items()}


def helper_names(layers: Sequence[Layer]) -> set[str]:
    """The names of the convolutions that only help a split and are never split again."""
    names: set[str] = set()
    for split in all_splits(layers):
        helpers = [last_layer(split.added[word]) for word in split.added if word in helper_words()]
        helpers += [] if split.reorder is None else [split.reorder]
        names.update(layers[index].name for index in helpers)
    return names


def near_misses(layers: Sequence[Layer] | Graph) -> dict[str, str]:
    """X -> why X is no split, where there are names of concat and reorder, or of half and sum; for error texts."""
    reader = _Reader(layers)
    reader.found()
    names = {layer.name for layer in reader.layers}
    divided, whole = (naming.concat, naming.reorder), (naming.slow_half, naming.total)
    return {
        origin: why
        for origin, why in reader.refused.items()
        if any(all(made(origin) in names for made in wanted) for wanted in (divided, whole))
    }


class _NoSplitError(Exception):
    """Why a layer named X_reorder is no end of a split."""


class _Reader:
    """Reads splits backwards, from the reorder to the blob that all of it reads."""

    def __init__(self, layers: Sequence[Layer] | Graph) -> None:
        self.graph = layers if isinstance(layers, Graph) else Graph(layers)
        self.layers = self.graph.layers
        self.refused: dict[str, str] = {}
        self._known: dict[int, Split | None] = {}

    def found(self) -> list[Split]:
        """All splits, in the order of their last layers, so that inner ones come first."""
        return [split for split in map(self.ending_at, range(len(self.layers))) if split is not None]

    def ending_at(self, last: int) -> Split | None:
        """The split whose last layer this is, or None."""
        if last not in self._known:
            self._known[last] = None
            layer = self.layers[last]
            origin = naming.ended(layer.name, added_words())
            # The end of a slow half that has a fast half beside it has a top of its own name.
            if origin is None or (naming.reordered(layer.name) is None and layer.tops == (layer.name,)):
                return None
            try:
                self._known[last] = self._read(origin, last)
            except _NoSplitError as why:
                self.refused[origin] = str(why)
        return self._known[last]

    def _read(self, origin: str, last: int) -> Split:
        between: list[int] = []
        if naming.reordered(self.layers[last].name) is not None:
            concat = self._concat(origin, last, between)
            fast_blob, slow_blob = self.layers[concat].bottoms
            fast = self.member(self.writer(fast_blob, concat, between), naming.fast_half(origin))
            path = _SlowPath(self, origin, self.entry(fast), between)
            path.follow(self.writer(slow_blob, concat, between))
        else:
            concat, fast = None, None
            path = _SlowPath(self, origin, self.entry(self._slow_half(origin, last)), between)
            path.follow(last)
        split = Split(
            origin=origin,
            kind=path.kind(),
            fast=fast,
            slow=path.members[SLOW],
            added={word: member for word, member in path.members.items() if word != SLOW},
            total=path.total,
            concat=concat,
            last=last,
            between=tuple(between),
            entry=path.entry[0],
            source=path.entry[1],
            exit=self.layers[last].tops[0],
        )
        self._check_kernels(split)
        self._check_phases(split)
        return split

    def _concat(self, origin: str, reorder: int, between: list[int]) -> int:
        """The concat of both halves that the reorder reads."""
        last = self.layers[reorder]
        _check_reorder(last)
        concat = self.writer(last.bottoms[0], reorder, between)
        join = self.layers[concat]
        if not (join.type == "Concat" and join.name == naming.concat(origin) and len(join.bottoms) == 2):
            raise _NoSplitError(f"{last.where} reads {join.where}, which is no Concat of two halves of '{origin}'")
        param = join.message.sub("concat_param")
        if param is not None and (int(param.get("axis", 1)) not in (1, -3) or param.get("concat_dim", 1) != 1):
            raise _NoSplitError(f"{join.where} does not concatenate channels")
        return concat

    def _slow_half(self, origin: str, last: int) -> Member:
        """The slow half that the last layer of a split without a fast half reads."""
        layer, name = self.layers[last], naming.slow_half(origin)
        for bottom in layer.bottoms:
            index = self.writer(bottom, last, [])
            if self.layers[index].name == name or naming.ended(self.layers[index].name, added_words()) == name:
                return self.member(index, name)
        raise _NoSplitError(f"{layer.where} does not read '{name}'")

    def writer(self, blob: str, reader: int, between: list[int]) -> int:
        """The layer that made `blob`; those that work in place on it, and BatchNorm and Scale, go to `between`."""
        index = self.graph.writer(blob, reader)
        while index is not None:
            layer = self.layers[index]
            alone = len(layer.bottoms) == len(layer.tops) == 1
            if not alone or (layer.bottoms != layer.tops and layer.type not in ("BatchNorm", "Scale")):
                return index
            between.append(index)
            index = self.graph.writer(layer.bottoms[0], index)
        raise _NoSplitError(f"{self.layers[reader].where} reads '{blob}', which nothing in the net makes")

    def member(self, index: int, name: str) -> Member:
        """The convolution `name` that layer `index` is, or the split of it that ends there."""
        layer = self.layers[index]
        if layer.type == "Convolution" and len(layer.bottoms) == len(layer.tops) == 1 and layer.name == name:
            return index
        inner = self.ending_at(index) if naming.ended(layer.name, added_words()) == name else None
        if inner is not None:
            return inner
        raise _NoSplitError(f"{layer.where} stands where '{name}' would be")

    def entry(self, member: Member) -> tuple[str, int | None]:
        """The blob that a member reads, and the layer that wrote it."""
        if isinstance(member, Split):
            return member.entry, member.source
        (blob,) = self.layers[member].bottoms
        return blob, self.graph.writer(blob, member)

    def _check_kernels(self, split: Split) -> None:
        """The reorder has as many kernels as both halves together."""
        if split.fast is None:
            return
        fast, slow, whole = (self._count(each) for each in (split.fast, split.slow, split.last))
        if fast + slow != whole:
            where = self.layers[split.last].where
            raise _NoSplitError(f"{where} has {whole} kernels, the halves of '{split.origin}' {fast} + {slow}")

    def _count(self, member: Member) -> int:
        """How many kernels a member has."""
        if isinstance(member, int):
            return kernels(self.layers[member])
        return self._count(member.slow if member.reorder is None else member.last)

    def _check_phases(self, split: Split) -> None:
        """Its layers can be in one net: none of them shuts the others' phase out."""
        if not any(all(_may_run(self.layers[index], phase) for index in split.own) for phase in PHASES):
            raise _NoSplitError(f"the layers of '{split.origin}' belong to different phases")


class _SlowPath:
    """What leads from the entry to the slow end of the concat: members by word, `SLOW` for the slow half."""

    def __init__(self, reader: _Reader, origin: str, entry: tuple[str, int | None], between: list[int]) -> None:
        self.reader, self.origin, self.entry, self.between = reader, origin, entry, between
        self.members: dict[str, Member] = {}
        self.reads: dict[str, str] = {}
        self.total: int | None = None

    def follow(self, index: int) -> None:
        """Reads the path back from its last layer."""
        layer = self.reader.layers[index]
        if layer.name != naming.total(self.origin):
            self._member(index)
            return
        param = layer.message.sub("eltwise_param")
        if layer.type != "Eltwise" or (param is not None and param.get("operation", "SUM") != "SUM"):
            raise _NoSplitError(f"{layer.where} is no sum")
        self.total = index
        for bottom in layer.bottoms:
            self._member(self.reader.writer(bottom, index, self.between))

    def _member(self, index: int) -> str:
        """Takes in the convolution, or inner split, that ends at a layer, and what it reads; gives its word."""
        name = self.reader.layers[index].name
        inner = naming.ended(name, added_words())
        word = self._word(name) or self._word(inner or "")
        if not word:
            raise _NoSplitError(f"{self.reader.layers[index].where} is no layer of a split of '{self.origin}'")
        if word in self.members:
            raise _NoSplitError(f"{self.reader.layers[index].where} is used twice")
        whole = name if self._word(name) else inner
        assert whole is not None
        member = self.reader.member(index, whole)
        self.members[word] = member
        entry = self.reader.entry(member)
        if entry == self.entry:
            self.reads[word] = BOTTOM
        elif isinstance(member, Split):
            raise _NoSplitError(f"'{whole}' reads another blob than '{naming.fast_half(self.origin)}'")
        else:
            self.reads[word] = self._member(self.reader.writer(entry[0], member, self.between))
        return word

    def _word(self, name: str) -> str:
        part = naming.take_apart(name, added_words())
        if part is None or part.origin != self.origin:
            return ""
        return SLOW if part.place == "split2" else part.word

    def kind(self) -> KindName:
        """The kind whose added path this is."""
        ends = self.reads.keys() - set(self.reads.values())
        added = {word: above for word, above in self.reads.items() if word != SLOW}
        if self.reads.get(SLOW) == BOTTOM and (self.total is not None) == (len(ends) > 1):
            for name in KIND_NAMES:
                if kind_of(name).has_made(added):
                    return name
        raise _NoSplitError(f"the slow half of '{self.origin}' has no added path as any kind of split has it")


def _check_reorder(layer: Layer) -> None:
    if layer.type != "Convolution" or len(layer.bottoms) != 1 or len(layer.tops) != 1:
        raise _NoSplitError(f"{layer.where} is no convolution of one blob")
    try:
        geometry = convolution_geometry(layer)
    except CaffeSplitError as error:
        raise _NoSplitError(str(error).rstrip(".")) from error
    if geometry != Geometry((1, 1)):
        raise _NoSplitError(f"{layer.where} is not a 1x1 convolution")


def kernels(layer: Layer) -> int:
    """A convolution's number of kernels; 0 where it does not say."""
    param = layer.message.sub("convolution_param")
    return int(param.get("num_output", 0)) if param is not None else 0


def _may_run(layer: Layer, phase: str) -> bool:
    """Whether the layer's rules admit the phase, with some stages and level."""
    includes, excludes = layer.message.subs("include"), layer.message.subs("exclude")
    if includes:
        return any(rule.get("phase", phase) == phase for rule in includes)
    names = ({field.name for field in rule.fields} for rule in excludes)
    return not any(keys == {"phase"} and rule.get("phase") == phase for keys, rule in zip(names, excludes))
