"""Splits are found by how layers are wired: ours always, in any rounds, and never a user's layers with our names."""

from __future__ import annotations

import re

import pytest

from caffe_split.folding.merge import merge_stems
from caffe_split.formats import prototxt
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import NetState
from caffe_split.split.kinds import KIND_NAMES, KindName
from caffe_split.split.recognise import all_splits, find_splits, helper_names, layer_roles, near_misses
from caffe_split.split.unsplit import innermost_first
from tests.split.nets import CONV, DATA, NET, ONE, layer, net, split_again


def origins(document: prototxt.Document) -> list[str]:
    return [split.origin for split in all_splits(all_layers(document))]


WAYS = [
    *({"kind": kind} for kind in KIND_NAMES),
    {"kind": "residual", "activation": "relu"},
    {"kind": "skip", "skip_pool": "average"},
]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_kind_is_found_with_its_members(way: dict[str, KindName], norm: bool, whole: bool) -> None:
    document = net(NET)
    before = {each.name for each in all_layers(document)} - {"x"}
    split_again(document, "x", norm, whole, **way)
    layers = all_layers(document)
    (split,) = find_splits(layers)
    assert (split.origin, split.kind, split.entry, split.exit) == ("x", way["kind"], "b", "t")
    assert {layers[index].name for index in split.members} == {each.name for each in layers} - before
    roles = layer_roles(layers)
    assert roles.pop("x_split1", None) == (None if whole else "fast") and roles.pop("x_split2") == "slow"
    assert set(roles) == {f"x_split2_{word}" for word in split.added} | (set() if whole else {"x_reorder"})
    assert set(roles.values()) == {"added"}
    again = {"x_split2_residual_pre"} if way["kind"] == "residual" else set()
    assert helper_names(layers) == set(roles) - again


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_splits_of_later_rounds_are_found_inside_the_first(kind: KindName, norm: bool, whole: bool) -> None:
    document = net(NET)
    split_again(document, "x", norm, kind="residual")
    split_again(document, "y", norm, kind=kind)
    for name in ("x_split1", "x_split2_residual_pre", "x_split2", "x_split1_split2"):
        split_again(document, name, norm, whole and name != "x_split1", kind=kind)
    outer, beside = find_splits(all_layers(document))
    assert (outer.origin, beside.origin) == ("x", "y")
    assert [outer.role_inside(inner) for inner in outer.inside] == ["fast", "slow", "added"]
    assert [inner.origin for inner in outer.inside] == ["x_split1", "x_split2", "x_split2_residual_pre"]
    fast = outer.inside[0]
    assert [inner.origin for inner in fast.inside] == ["x_split1_split2"] and fast.members < outer.members
    order = [name for names in innermost_first(origins(document)) for name in names]
    assert sorted(order) == sorted(origins(document))
    assert order.index("x_split1_split2") < order.index("x_split1") < order.index("x")


def test_whole_splits_are_found_inside_whole_splits() -> None:
    document = net(NET)
    for name in ("x", "x_split2", "x_split2_split2"):
        split_again(document, name, whole=True, kind="dbb")
    split_again(document, "x_split2_split2_split2", kind="extension")
    layers = all_layers(document)
    (outer,) = find_splits(layers)
    depth = []
    while outer.inside:
        depth.append((outer.origin, outer.kind, outer.exit))
        (outer,) = outer.inside
    assert depth == [("x", "dbb", "t"), ("x_split2", "dbb", "x_split2"), ("x_split2_split2", "dbb", "x_split2_split2")]
    assert (outer.origin, outer.kind) == ("x_split2_split2_split2", "extension")


def test_a_split_written_once_per_phase_is_found_in_both() -> None:
    """The file has X twice; each phase's net has one split."""
    text = NET.replace('top: "t" conv', 'top: "t" include { phase: TRAIN } conv', 1)
    twin = layer(
        "x",
        "Convolution",
        "b",
        "include { phase: TEST } convolution_param { num_output: 16 kernel_size: 3 pad: 1 }",
        "t",
    )
    document = net(text.replace('layer { name: "r"', twin + 'layer { name: "r"'))
    split_again(document, "x", kind="residual")
    assert origins(document) == ["x", "x"]
    for phase in ("TRAIN", "TEST"):
        assert [split.origin for split in find_splits(phase_layers(document, NetState(phase)))] == ["x"]


def plain(text: str) -> None:
    """The document has no split, no helper and no layer with a role in a split."""
    layers = all_layers(net(text))
    assert find_splits(layers) == [] and helper_names(layers) == set() and layer_roles(layers) == {}


OWN = {
    "a lone reorder": layer("x_reorder", "Convolution", "b", CONV),
    "a lone half": layer("x_split1", "Convolution", "b", CONV),
    "a lone skip": layer("x_skip", "Convolution", "b", CONV) + layer("x_split2_skip", "Convolution", "b", CONV),
    "both halves, one after the other": layer("x_split1", "Convolution", "b", CONV)
    + layer("x_split2", "Convolution", "x_split1", CONV)
    + layer("x_reorder", "Convolution", "x_split2", ONE),
    "no added path": layer("x_split1", "Convolution", "b", CONV)
    + layer("x_split2", "Convolution", "b", CONV)
    + layer("x_concat", "Concat", "x_split1 x_split2")
    + layer("x_reorder", "Convolution", "x_concat", ONE),
    "no convolutions": layer("x_split1", "Pooling", "b")
    + layer("x_split2", "Pooling", "b")
    + layer("x_concat", "Concat", "x_split1 x_split2")
    + layer("x_reorder", "InnerProduct", "x_concat", "inner_product_param { num_output: 4 }"),
    "a reorder of nothing": layer("x_reorder", "Convolution", "nowhere", ONE),
    "the suffix alone": layer("_reorder", "Convolution", "b", CONV) + layer("_split1", "Convolution", "b", CONV),
}


@pytest.mark.parametrize("text", OWN.values(), ids=OWN)
def test_own_layers_with_our_names_are_plain(text: str) -> None:
    plain(DATA + text)


def edited(kind: KindName, old: str, new: str, whole: bool = False) -> str:
    document = net(NET)
    split_again(document, "x", whole=whole, kind=kind)
    source = str(document)
    assert old in source
    return source.replace(old, new, 1)


# All of a split's names, and one thing that is wired otherwise.
OTHERWISE = [
    ("skip", "operation: SUM", "operation: PROD", "'x_split2_sum' .* is no sum"),
    ("skip", 'type: "Concat"', 'type: "Concat" concat_param { axis: 2 }', "does not concatenate channels"),
    ("skip", 'type: "Concat"', 'type: "Concat" concat_param { concat_dim: 2 }', "does not concatenate channels"),
    ("extension", 'bottom: "x_concat"', 'bottom: "b"', "which nothing|reads layer 'b'"),
    ("extension", 'name: "x_split1"', 'name: "x_split9"', "'x_split9' .* stands where 'x_split1' would be"),
    ("extension", 'type: "Concat"', 'type: "Eltwise"', "which is no Concat"),
    ("extension", 'bottom: "x_split2_extension"', 'bottom: "x_split2"', "no added path as any kind"),
    ("residual", 'bottom: "x_split2_residual_pre"', 'bottom: "b"', "no added path as any kind|kernels"),
    ("residual", 'bottom: "x_split2_residual_post"', 'bottom: "x_split2"', "is used twice"),
    (
        "residual",
        'bottom: "x_split1" bottom: "x_split2_sum"',
        'bottom: "x_split2_sum" bottom: "x_split1"',
        "stands",
    ),
    ("extension", "num_output: 16", "num_output: 12", "has 12 kernels, the halves of 'x' 8 . 8"),
    ("extension", 'name: "x_split2"', 'name: "p" type: "Power" bottom: "b" top: "b" }\nlayer { name: "x_split2"', ""),
]


@pytest.mark.parametrize(("kind", "old", "new", "why"), OTHERWISE)
def test_layers_wired_otherwise_are_plain_and_it_is_said_why(kind: KindName, old: str, new: str, why: str) -> None:
    text = edited(kind, old, new)
    plain(text)
    misses = near_misses(all_layers(net(text)))
    assert list(misses) == ["x"]
    assert re.search(why, misses["x"]), misses
    folded, kept, *_ = merge_stems([net(text)], {})
    assert folded == [] and kept == misses


@pytest.mark.parametrize(
    ("kind", "old", "new", "why"),
    [
        ("conv1x1", "operation: SUM", "operation: MAX", "'x_split2_sum' .* is no sum"),
        ("acnet", 'bottom: "x_split2_acnet_row"', 'bottom: "b"', "reads 'b', which nothing|no layer of a split"),
        ("dbb", 'bottom: "x_split2_dbb_kxk_pre"', 'bottom: "b"', "no added path as any kind|used twice"),
        ("identity", 'bottom: "x_split2" bottom', "bottom", "does not read 'x_split2'"),
    ],
)
def test_whole_layers_wired_otherwise_are_plain(kind: KindName, old: str, new: str, why: str) -> None:
    text = edited(kind, old, new, whole=True)
    plain(text)
    misses = near_misses(all_layers(net(text)))
    assert list(misses) == ["x"] and re.search(why, misses["x"]), misses


def test_a_split_without_some_of_its_branches_is_one() -> None:
    """What folding leaves of it; the last layer of a branch alone is none."""
    for gone in ('bottom: "x_split2_acnet_row" ', 'bottom: "x_split2_acnet_column"'):
        (split,) = find_splits(all_layers(net(edited("acnet", gone, ""))))
        assert split.kind == "acnet" and len(split.added) == 1
    plain(edited("acnet", 'bottom: "x_split2_acnet_row" bottom: "x_split2_acnet_column"', ""))
    plain(edited("residual", 'bottom: "x_split2_residual_post"', 'bottom: "x_split2_residual_pre"'))


def test_parts_that_never_meet_in_one_net_are_plain() -> None:
    """The reorder in the TEST phase, the fast half in the TRAIN phase."""
    text = edited("skip", 'name: "x_split1"', 'name: "x_split1" include { phase: TRAIN }')
    text = text.replace('name: "x_reorder"', 'name: "x_reorder" include { phase: TEST }')
    plain(text)
    plain(text.replace("include { phase: TRAIN }", "exclude { phase: TEST }"))


def test_an_edited_split_stays_one_where_it_is_wired_as_one() -> None:
    """Layers in place on the way, shared weights, rules: fold says what it minds."""
    shared = edited("residual", 'name: "x_split1"', 'name: "x_split1" param { name: "w" }')
    relu = layer("own", "ReLU", "x_split1", top="x_split1")
    for text in (
        shared + layer("z", "Convolution", "b", CONV + ' param { name: "w" }'),
        edited("residual", 'layer { name: "x_split2"', relu + 'layer { name: "x_split2"'),
        edited("residual", 'name: "x_reorder"', 'name: "x_reorder" include { phase: TEST }'),
    ):
        assert origins(net(text)) == ["x"]


def test_an_own_layer_named_as_a_half_is_split_as_any_other() -> None:
    """The split of a layer called x_split1 is no split of x, whatever else is called after x."""
    document = net(
        DATA + layer("x_split1", "Convolution", "b", CONV) + layer("x_reorder", "Convolution", "x_split1", ONE)
    )
    split_again(document, "x_split1", kind="residual")
    layers = all_layers(document)
    (split,) = find_splits(layers)
    assert split.origin == "x_split1"
    assert "x_reorder" not in helper_names(layers) and "x_reorder" not in layer_roles(layers)
