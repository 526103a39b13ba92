"""Which layers are chosen from given scores: highest entropy first, helpers and what cannot be split left out."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_split.derivation.choose import candidates, choose_layers, ranking
from caffe_split.derivation.options import DeriveOptions
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.tpm.scores import LayerScores
from tests.split.nets import layer, split_again

CONV = "param {{ lr_mult: {rate} }} convolution_param {{ num_output: {count} kernel_size: 1 }}"
NAMES = [
    "a_split1",
    "a_split2",
    "a_split2_residual_pre",
    "a_split2_residual_post",
    "a_reorder",
    "b_split1",
    "b_split2",
    "b_split2_extension",
    "b_reorder",
    "c_split1",
    "c_split2",
    "c_split2_skip",
    "c_reorder",
    "d_reorder",
    "frozen",
    "single",
]
AGAIN = [name for name in NAMES if name.endswith(("_split1", "_split2", "_pre"))]


def net() -> prototxt.Document:
    """Three layers split, each in another way, an own layer with a helper's name, and two that cannot be split."""
    text = 'input: "data" input_shape { dim: 1 dim: 4 dim: 8 dim: 8 }\n'
    names = ["a", "b", "c", "d_reorder", "frozen", "single"]
    for bottom, name in zip(["data", *names], names):
        count, rate = 1 if name == "single" else 8, 0 if name == "frozen" else 1
        text += layer(name, "Convolution", bottom, CONV.format(count=count, rate=rate))
    document = prototxt.parse(text, "net")
    for name, kind in (("a", "residual"), ("b", "extension"), ("c", "skip")):
        split_again(document, name, kind=kind)
    return document


def scores(entropies: dict[str, int]) -> list[LayerScores]:
    """Layers whose four kernels lie in so many different bins: entropy 0 to ln 4; 0 bins: frozen."""
    found = []
    for name, bins in entropies.items():
        tpm = np.array([0.05 + 0.1 * (k % bins) for k in range(4)]) if bins else np.zeros(4)
        path = np.full(4, 1.0 if bins else 0.0)
        found.append(LayerScores(name, 0, 10, 1, 10, (4, 4, 1, 1), tpm, path, 0.1, path[0], 1.0, 1.0))
    return found


def chosen(entropies: dict[str, int], count: int) -> list[str]:
    return [layer.name for layer in choose_layers(net(), None, count, ranking(net(), scores(entropies), []))]


def test_helpers_frozen_and_single_kernels_are_no_candidates() -> None:
    assert [layer.name for layer in candidates(net())] == [*AGAIN, "d_reorder"]


def test_the_highest_entropies_in_the_nets_order() -> None:
    given = {name: 2 for name in NAMES} | {"d_reorder": 4, "a_split2": 3}
    assert chosen(given, 1) == ["d_reorder"]
    assert chosen(given, 2) == ["a_split2", "d_reorder"]


def test_helpers_do_not_count_however_high() -> None:
    given = {name: 4 if name.endswith(("_post", "_extension", "_skip", "_reorder")) else 1 for name in NAMES}
    assert chosen(given | {"d_reorder": 2}, 1) == ["d_reorder"]


def test_equal_entropies_go_by_the_nets_order() -> None:
    assert chosen({name: 2 for name in NAMES}, 3) == ["a_split1", "a_split2", "a_split2_residual_pre"]


def test_a_layer_that_did_not_move_is_not_chosen() -> None:
    given = {name: 1 for name in NAMES[:5]} | {"a_split1": 0, "a_split2": 0, "d_reorder": 1}
    assert chosen(given, 1) == ["a_split2_residual_pre"]
    with pytest.raises(CaffeSplitError, match=r"2 layers can .*residual_pre, d_reorder\), 4 were asked for"):
        choose_layers(net(), None, 4, ranking(net(), scores(given), []))


def test_named_layers() -> None:
    assert [layer.name for layer in choose_layers(net(), ["d_reorder", "a_split1"], 1, [])] == ["a_split1", "d_reorder"]
    for name, reason in (
        ("a_reorder", "a helper of an earlier"),
        ("a_split2_residual_post", "a helper of an earlier"),
        ("b_split2_extension", "a helper of an earlier"),
        ("c_split2_skip", "a helper of an earlier"),
        ("frozen", "frozen"),
        ("single", "one kernel"),
        ("nothing", "no such layer"),
    ):
        with pytest.raises(CaffeSplitError, match=f"layer '{name}' cannot be split: .*{reason}.*that can: a_split1"):
            choose_layers(net(), [name], 1, [])


def test_a_layer_in_place_is_not_split() -> None:
    text = 'layer { name: "c" type: "Convolution" bottom: "x" top: "x" convolution_param { num_output: 4 %s } }'
    document = prototxt.parse(text % "kernel_size: 1", kind="net", filename="net.prototxt")
    with pytest.raises(CaffeSplitError, match=r"layer 'c' cannot be split: it works in place: .*Those that can: none"):
        choose_layers(document, ["c"], 1, [])


def test_the_reason_of_a_layers_geometry_names_the_layer_once() -> None:
    text = 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 %s } }'
    for written, reason in (
        ("kernel_size: 3 axis: 2", "it convolves over axis 2; only axis 1 is handled"),
        ("kernel_size: 3 group: 0", "group is 0, expected 1 or more"),
        ("", "it gives no kernel_size, not both of kernel_h and kernel_w, or a stride of 0"),
    ):
        document = prototxt.parse(text % written, kind="net", filename="net.prototxt")
        with pytest.raises(CaffeSplitError) as refused:
            choose_layers(document, ["c"], 1, [])
        assert str(refused.value) == f"layer 'c' cannot be split: {reason}. Those that can: none."


def test_where_nothing_can_be_split_each_reason_is_named() -> None:
    def conv(name: str, more: str) -> str:
        return (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" '
            f"convolution_param {{ num_output: 4 kernel_size: 3 }} {more} }}\n"
        )

    shared = 'param { name: "w" }'
    text = conv("one", shared) + conv("two", shared) + conv("frozen", "param { lr_mult: 0 }")
    document = prototxt.parse(text, kind="net", filename="net.prototxt")
    options = DeriveOptions(choose_by="random:0", partition="random:0")
    with pytest.raises(CaffeSplitError) as refused:
        choose_layers(document, None, 1, ["one", "two", "frozen"], options)
    assert str(refused.value) == (
        "net.prototxt: no layer can be split: one: it shares its weight with two; two: it shares its weight with one; "
        "frozen: it is frozen (lr_mult 0)."
    )
    text = 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" }'
    document = prototxt.parse(text, kind="net", filename="net.prototxt")
    with pytest.raises(CaffeSplitError, match=r"no layer can be split, since it has no convolution\."):
        choose_layers(document, None, 1, [], options)
