"""Fields and values that a layer has from a fork of Caffe: which of them may change its sizes.

BVLC's Caffe does not have them, so what they do is not known. Nothing is computed as if they were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from caffe_split.net.layers import Layer

# What only chooses an implementation, a precision or how records are read: path -> why it changes nothing.
_HARMLESS = {
    **dict.fromkeys(
        (
            *("forward_type", "backward_type", "forward_math", "backward_math", "cudnn_math_override", "debug"),
            *("default_forward_type", "default_backward_type", "default_forward_math", "default_backward_math"),
            *("default_cudnn_math_override", "default_conv_algos_override", "eltwise_mp", "reduce_buckets"),
            *("global_grad_scale", "global_grad_scale_adaptive"),
            *("convolution_param.conv_algos_override", "convolution_param.cudnn_convolution_algo_seeker"),
            *("compile_net_state", "multinode", "mem_param", "optimize_mem", "reshape_every_iter"),
            *("deletetop", "deletebottom"),
            *("convolution_param.conv_mode", "inner_product_param.gemm_mode"),
            *("inner_product_param.spmdm_transpose_in", "inner_product_param.spmdm_transpose_out"),
        ),
        "it chooses among a fork's implementations and precisions",
    ),
    **dict.fromkeys(
        ("train_net_output_disp", "is_disp_info"),
        "it chooses what a fork prints",
    ),
    **dict.fromkeys(
        (
            *("data_param.threads", "data_param.parser_threads", "data_param.cache"),
            *("transform_param.use_gpu_transform", "transform_param.random_seed"),
        ),
        "it says how NVCaffe reads records",
    ),
}
# Values, of a field by its path, that mean what Caffe does without the field.
_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(
        (
            *("data_param.shuffle", "image_data_param.raw_hdf5"),
            *("bias_param.channel_shared", "convolution_param.relu"),
        ),
        ("false", 0),
    ),
    "roi_pooling_param.pad_ratio": (0,),
    "data_param.shuffle_pool_size": (0, 1),
}
# These change values, but no size.
_NO_SIZE = frozenset(["data_param.shuffle"])


def foreign_fields(layer: Layer) -> list[check.Problem]:
    """The fields and values of a layer that BVLC's Caffe does not have, whatever schema its net was read by."""
    return check.foreign(layer.message, "LayerParameter")


def why_harmless(path: str, within: prototxt.Message) -> str | None:
    """Why a field of a fork, by its path in a net or in a layer, changes nothing there; None for all others."""
    if path.rpartition(".")[2] == "engine":
        return "it chooses among a fork's implementations"
    if path in _WITHOUT_EFFECT and all(value in _WITHOUT_EFFECT[path] for value in _values(path, within)):
        return "with this value it changes nothing"
    return _HARMLESS.get(path)


def harmless_fields(layer: Layer) -> dict[str, tuple[check.Problem, str]]:
    """The fields of forks that change nothing, by path, and why; those within a fork's own messages, too."""
    found = {}
    for problem in (*foreign_fields(layer), *check.unknown_to_all(layer.message, "LayerParameter")):
        reason = why_harmless(problem.path, layer.message)
        if reason is not None:
            found[problem.path] = problem, reason
    return found


def _values(path: str, within: prototxt.Message) -> list[Any]:
    """All values of the field at a path: numbers, and words in small letters."""
    name, _, rest = path.partition(".")
    if rest:
        return [value for message in within.subs(name) for value in _values(rest, message)]
    return [value.lower() if isinstance(value, str) else value for value in within.get_all(name)]


def unread_fields(layer: Layer, options: Mapping[str, str]) -> list[check.Problem]:
    """The fields and values of forks that no rule of the layer's type reads, and that may change what it computes.

    `options` are those of the type's record. Values that do not fit a fork's field are among them; `training_fields`
    are not.
    """
    return [problem for problem in _unread(layer, options) if problem.fatal or not _is_of_training(problem.path)]


def may_be_a_slip(problem: check.Problem) -> bool:
    """Whether what only a fork may know may be a mistake: a value that does not fit, what is nearly a known name."""
    return problem.fatal or "has no field" not in problem.message or "did you mean" in problem.message


def training_fields(layer: Layer, options: Mapping[str, str]) -> list[check.Problem]:
    """As `unread_fields`, of what concerns a training alone: how weights are first filled, and learnt."""
    return [problem for problem in _unread(layer, options) if not problem.fatal and _is_of_training(problem.path)]


def _unread(layer: Layer, options: Mapping[str, str]) -> list[check.Problem]:
    strange = foreign_fields(layer)
    if not strange:
        return []
    found = check.unknown_to_all(layer.message, "LayerParameter")
    paths = {problem.path for problem in found}
    for problem in strange:
        message, _, field = problem.path.partition(".")
        is_read = message in options and (not field or field in options[message].split())
        if problem.path not in paths and not is_read:
            found.append(problem)
    return sorted(
        (problem for problem in found if problem.fatal or why_harmless(problem.path, layer.message) is None),
        key=lambda problem: (problem.line, problem.column),
    )


def why_not_known(layer: Layer, options: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Why the sizes of a layer and of its blobs are not known, or None: fields of a fork that may change them.

    `options` are those of the type's record, whose shape rule reads them.
    """
    unread = unread_fields(layer, options)
    found = list(dict.fromkeys(problem.path for problem in unread if problem.path not in _NO_SIZE))
    if not found:
        return None
    return f"what its {', '.join(found)} {'does' if len(found) == 1 else 'do'} is known to a fork of Caffe only"


def _is_of_training(path: str) -> bool:
    *above, _name = path.split(".")
    if not above or above[0] == "dummy_data_param":  # Its fillers make the values of tops.
        return False
    return above[0] == "param" or above[-1].endswith("filler")
