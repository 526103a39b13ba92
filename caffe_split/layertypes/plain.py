"""Layers whose tops' shapes follow from axes and a few numbers."""

from __future__ import annotations

import math

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.rule import Found, Shape, axis_of, bottoms_of, param_of, with_bias
from caffe_split.net.layers import Layer


def same(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    return Found([bottoms[0]] * len(layer.tops))


def nothing(layer: Layer, bottoms: list[Shape]) -> Found:
    return Found([])


def scalar(layer: Layer, bottoms: list[Shape]) -> Found:
    return Found([()] * len(layer.tops))


def loss_and_probabilities(layer: Layer, bottoms: list[Shape]) -> Found:
    """The loss; a second top is the softmax behind it."""
    bottoms_of(layer, bottoms, 2)
    return Found([(), bottoms[0]][: len(layer.tops)])


def accuracy(layer: Layer, bottoms: list[Shape]) -> Found:
    """The accuracy; a second top is that of each class."""
    bottoms_of(layer, bottoms, 2)
    axis = axis_of(param_of(layer, "accuracy_param").get("axis", 1), len(bottoms[0]), layer)
    return Found([(), (bottoms[0][axis],)][: len(layer.tops)])


def batch_norm(layer: Layer, bottoms: list[Shape]) -> Found:
    """Mean, variance and their scale factor are statistics, not parameters."""
    bottoms_of(layer, bottoms, 1)
    channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
    return Found([bottoms[0]], state=[(channels,), (channels,), (1,)])


def scale(layer: Layer, bottoms: list[Shape]) -> Found:
    """Scale and Bias: a parameter over `num_axes` axes of the bottom from `axis` on, or a second bottom for it."""
    bottoms_of(layer, bottoms, 1)
    param = param_of(layer, "scale_param" if layer.type == "Scale" else "bias_param")
    has_bias = layer.type == "Scale" and bool(param.get("bias_term", False))
    if len(bottoms) > 1:
        return Found([bottoms[0]], [bottoms[1]] if has_bias else [])
    axis, count = axis_of(param.get("axis", 1), len(bottoms[0]), layer), int(param.get("num_axes", 1))
    shape = bottoms[0][axis:] if count == -1 else bottoms[0][axis : axis + count]
    return Found([bottoms[0]], with_bias(shape, shape, has_bias))


def prelu(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    shared = param_of(layer, "prelu_param").get("channel_shared", False)
    return Found([bottoms[0]], [() if shared else bottoms[0][1:2]])


def inner_product(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (num_output, inputs), turned round with `transpose`."""
    bottoms_of(layer, bottoms, 1)
    if not layer.message.has("inner_product_param"):
        raise CaffeSplitError(f"{layer.where} is an InnerProduct without inner_product_param.")
    param = param_of(layer, "inner_product_param")
    axis = axis_of(param.get("axis", 1), len(bottoms[0]), layer)
    inputs, count = math.prod(bottoms[0][axis:]), int(param.get("num_output", 0))
    weight = (inputs, count) if param.get("transpose", False) else (count, inputs)
    return Found(
        [(*bottoms[0][:axis], count)],
        with_bias(weight, (count,), bool(param.get("bias_term", True))),
        macs=inputs * count * math.prod(bottoms[0][1:axis]),
    )


def embed(layer: Layer, bottoms: list[Shape]) -> Found:
    """A row of the weight for each index of the bottom: looked up, so no multiply-adds."""
    bottoms_of(layer, bottoms, 1)
    param = param_of(layer, "embed_param")
    count = int(param.get("num_output", 0))
    weight = (int(param.get("input_dim", 0)), count)
    return Found([(*bottoms[0], count)], with_bias(weight, (count,), bool(param.get("bias_term", True))))


def concat(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    param = param_of(layer, "concat_param")
    axis = axis_of(param.get("concat_dim" if param.has("concat_dim") else "axis", 1), len(bottoms[0]), layer)
    for bottom in bottoms[1:]:
        if bottom[:axis] + bottom[axis + 1 :] != bottoms[0][:axis] + bottoms[0][axis + 1 :]:
            raise CaffeSplitError(f"{layer.where}: bottoms of {bottoms[0]} and {bottom} do not join along axis {axis}.")
    joined = sum(bottom[axis] for bottom in bottoms)
    return Found([(*bottoms[0][:axis], joined, *bottoms[0][axis + 1 :])])


def slices(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    param, bottom, tops = param_of(layer, "slice_param"), bottoms[0], len(layer.tops)
    axis = axis_of(param.get("slice_dim" if param.has("slice_dim") else "axis", 1), len(bottom), layer)
    points = [int(point) for point in param.get_all("slice_point")]
    if not points and bottom[axis] % tops:
        raise CaffeSplitError(f"{layer.where}: {bottom[axis]} along axis {axis} do not divide into {tops} tops.")
    if not points:
        points = [bottom[axis] // tops * cut for cut in range(1, tops)]
    sizes = [stop - start for start, stop in zip([0, *points], [*points, bottom[axis]])]
    if len(sizes) != tops or min(sizes) < 1:
        raise CaffeSplitError(f"{layer.where}: {bottom[axis]} along axis {axis} are not sliced into {tops} tops.")
    return Found([(*bottom[:axis], part, *bottom[axis + 1 :]) for part in sizes])


def flatten(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    param, bottom = param_of(layer, "flatten_param"), bottoms[0]
    first = axis_of(param.get("axis", 1), len(bottom), layer)
    last = axis_of(param.get("end_axis", -1), len(bottom), layer)
    return Found([(*bottom[:first], math.prod(bottom[first : last + 1]), *bottom[last + 1 :])])


def reshape(layer: Layer, bottoms: list[Shape]) -> Found:
    """Axes from `axis` on become `shape`, in which 0 keeps the bottom's size and -1 takes what is left."""
    bottoms_of(layer, bottoms, 1)
    param, bottom = param_of(layer, "reshape_param"), bottoms[0]
    shape = param.sub("shape")
    dims = [int(d) for d in shape.get_all("dim")] if shape else []
    start = axis_of(param.get("axis", 0), len(bottom), layer, past_end=True)
    count = int(param.get("num_axes", -1))
    stop = len(bottom) if count == -1 else start + count
    if not start <= stop <= len(bottom):
        raise CaffeSplitError(f"{layer.where}: {count} axes from {start} on do not lie in its bottom of {bottom}.")
    if any(dim == 0 and start + i >= len(bottom) for i, dim in enumerate(dims)):
        raise CaffeSplitError(f"{layer.where}: it keeps an axis that its bottom of {bottom} does not have.")
    dims = [bottom[start + i] if dim == 0 else dim for i, dim in enumerate(dims)]
    given = math.prod(dim for dim in dims if dim != -1) * math.prod(bottom[:start]) * math.prod(bottom[stop:])
    left = math.prod(bottom) // given if given else 0
    result = (*bottom[:start], *(left if dim == -1 else dim for dim in dims), *bottom[stop:])
    if math.prod(result) != math.prod(bottom):
        raise CaffeSplitError(f"{layer.where}: its bottom of {bottom} cannot be given the shape {result}.")
    return Found([result])


def arg_max(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1, axes=1)
    param, bottom = param_of(layer, "argmax_param"), bottoms[0]
    top_k = int(param.get("top_k", 1))
    if param.has("axis"):
        axis = axis_of(param.get("axis"), len(bottom), layer)
        return Found([(*bottom[:axis], top_k, *bottom[axis + 1 :])])
    ones = [1] * (len(bottom) - 3)
    return Found([(bottom[0], 2 if param.get("out_max_val", False) else 1, top_k, *ones)])


def crop(layer: Layer, bottoms: list[Shape]) -> Found:
    """The first bottom, from `axis` on as large as the second."""
    bottoms_of(layer, bottoms, 2)
    axis = axis_of(param_of(layer, "crop_param").get("axis", 2), len(bottoms[0]), layer)
    return Found([(*bottoms[0][:axis], *bottoms[1][axis:])])


def batch_reindex(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 2, axes=1)
    return Found([(bottoms[1][0], *bottoms[0][1:])])


def reduction(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    axis = axis_of(param_of(layer, "reduction_param").get("axis", 0), len(bottoms[0]), layer)
    return Found([bottoms[0][:axis]])


def tile(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    param, bottom = param_of(layer, "tile_param"), bottoms[0]
    axis = axis_of(param.get("axis", 1), len(bottom), layer)
    return Found([(*bottom[:axis], bottom[axis] * int(param.get("tiles", 1)), *bottom[axis + 1 :])])


def recurrent(layer: Layer, bottoms: list[Shape]) -> Found:
    """LSTM and RNN over (time, batch, ...). Weights of x, of the static input if there is one, of h, and, in an
    RNN, of the output; a bias beside x's and the output's. Multiply-adds are those of one sequence.
    """
    bottoms_of(layer, bottoms, 2, axes=2)
    param = param_of(layer, "recurrent_param")
    count, gates = int(param.get("num_output", 0)), 4 if layer.type == "LSTM" else 1
    steps, batch = bottoms[0][:2]
    rows = gates * count
    hidden = bool(param.get("expose_hidden", False))
    states = 2 if layer.type == "LSTM" else 1
    static = bottoms[2] if len(bottoms) > 2 + (states if hidden else 0) else None
    weights: list[Shape] = [(rows, math.prod(bottoms[0][2:])), (rows,)]
    if static is not None:
        weights.append((rows, math.prod(static[1:])))
    weights.append((rows, count))
    if layer.type == "RNN":
        weights += [(count, count), (count,)]
    macs = sum(math.prod(weight) for weight in weights if len(weight) == 2) * steps
    ends: list[Shape] = [(1, batch, count)] * (states if hidden else 0)
    return Found([(steps, batch, count), *ends], weights, macs=macs)


def tpm(layer: Layer, bottoms: list[Shape]) -> Found:
    """The layer's state: the watched weight, two copies, the results and the counters (layers/tpm_layer.hpp)."""
    param = param_of(layer, "tpm_param")
    shape = param.sub("shape")
    weight = tuple(int(d) for d in shape.get_all("dim")) if shape else ()
    windows, kernels = len(param.get_all("start_iter")), weight[0] if weight else 0
    state: list[Shape] = [weight, weight, weight, (windows, kernels + 1, 3), (windows + 1, 8)]
    return Found([()] * len(layer.tops), state=state)
