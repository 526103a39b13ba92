"""Bottoms that no layer above gives: Caffe refuses to build a net with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer, all_layers, phase_layers
from caffe_split.net.state import NetState


@dataclass(frozen=True)
class LackingBottom:
    """A bottom of `layer` that no layer above it gives in the state of the net.

    `givers` are the layers above it that give it in another phase, stage or level; without any the name is wrong, or
    the order of the layers.
    """

    layer: Layer
    bottom: str
    givers: tuple[Layer, ...]

    @property
    def text(self) -> str:
        """What is wrong, without the layer."""
        said = f"bottom '{self.bottom}' is no top of a layer above it in this phase"
        listed = [f"layer '{each.name}' of line {each.field.line} gives it {_where(each)}" for each in self.givers]
        return "; ".join([said, *listed])


def lacking_bottoms(document: prototxt.Document, layers: Sequence[Layer]) -> list[LackingBottom]:
    """The bottoms that no layer above gives. `layers` are those of `document` in one state, in order."""
    lacking, made = [], {str(name) for name in document.get_all("input")}
    for layer in layers:
        lacking += [(layer, bottom) for bottom in dict.fromkeys(layer.bottoms) if bottom not in made]
        made.update(layer.tops)
    if not lacking:
        return []
    every = all_layers(document)
    places = {id(layer.field): place for place, layer in enumerate(every)}
    found = []
    for layer, bottom in lacking:
        above = every[: places[id(layer.field)]]
        givers = tuple(each for each in above if bottom in each.tops and bottom not in each.bottoms)
        found.append(LackingBottom(layer, bottom, givers))
    return found


def check_bottoms(
    document: prototxt.Document, state: NetState, layers: Sequence[Layer] | None = None, *, known: bool = True
) -> None:
    """Raises `CaffeSplitError` for bottoms that no layer above gives in `state`, a line each.

    `layers` are those of the net in that state which count, in order; None: all of them. Where the state is not
    `known`, as without a solver that says the stages, only for bottoms that no layer above gives in any state: Caffe
    refuses them whatever the state is.
    """
    built = phase_layers(document, state) if layers is None else layers
    found = [each for each in lacking_bottoms(document, built) if known or not each.givers]
    if not found:
        return
    lines = "".join(
        f"\n  {document.filename}:{each.layer.field.line}: layer '{each.layer.name}': {each.text}" for each in found
    )
    rules = [rule for each in found for giver in each.givers for rule in _rules(giver)]
    fields = {"stage": ("stage", "not_stage"), "level": ("min_level", "max_level")}
    asked = [word for word, names in fields.items() if any(rule.has(name) for rule in rules for name in names)]
    hint = ""
    if asked:
        words = " and the ".join(asked)
        hint = f"\nSay the {words}: by the option of that name, or in the solver's train_state and test_state."
    elif rules:
        hint = f"\nGive the net for the {state.phase} phase."
    raise CaffeSplitError(f"{document.filename}: Caffe does not build this net in {state.words}:{lines}{hint}")


def _rules(layer: Layer) -> list[prototxt.Message]:
    return [*layer.message.subs("include"), *layer.message.subs("exclude")]


def _where(layer: Layer) -> str:
    """The states of a net in which a layer is there, by its rules: `in phase TRAIN with stage a, b`."""
    includes, excludes = ([_words(rule) for rule in layer.message.subs(name)] for name in ("include", "exclude"))
    return " or ".join(includes) if includes else f"but not {' nor '.join(excludes)}"


def _words(rule: prototxt.Message) -> str:
    parts = [f"in phase {rule.get('phase')}"] if rule.has("phase") else []
    for name, word in (("stage", "with"), ("not_stage", "without")):
        stages = [str(stage) for stage in rule.get_all(name)]
        parts += [f"{word} stage {', '.join(stages)}"] if stages else []
    for name, word in (("min_level", "from"), ("max_level", "up to")):
        parts += [f"{word} level {rule.get(name)}"] if rule.has(name) else []
    return " ".join(parts) or "in any state"
