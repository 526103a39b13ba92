"""How a kernel slides over the spatial axes of a blob: the one reading of kernel, stride, padding and dilation.

The rules are those of Caffe's BaseConvolutionLayer, DeconvolutionLayer and PoolingLayer.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

Sizes = tuple[int, ...]

# A setting of both sides alike -> those of height and width. dilation has none: it is written twice.
HEIGHT_AND_WIDTH = {
    "kernel_size": ("kernel_h", "kernel_w"),
    "stride": ("stride_h", "stride_w"),
    "pad": ("pad_h", "pad_w"),
}


@dataclass(frozen=True)
class Window:
    """A kernel that slides: each of the four has one number per spatial axis, in values of the bottom."""

    kernel: Sizes
    stride: Sizes
    pad: Sizes
    dilation: Sizes

    @property
    def end(self) -> Sizes:
        """The padding after the values; `pad` is that before them."""
        return self.pad

    def slide(self, sizes: Sizes) -> Sizes:
        """The sizes of a convolution's top for a bottom of `sizes`, rounded down.

        >>> Window((3, 3), (2, 2), (1, 1), (1, 1)).slide((32, 31))
        (16, 16)
        """
        return tuple(
            (n + p + e - (d * (k - 1) + 1)) // s + 1
            for n, k, s, p, e, d in zip(sizes, self.kernel, self.stride, self.pad, self.end, self.dilation)
        )

    def spread(self, sizes: Sizes) -> Sizes:
        """The sizes of a deconvolution's top for a bottom of `sizes`.

        >>> Window((4, 4), (2, 2), (1, 1), (1, 1)).spread((16, 16))
        (32, 32)
        """
        return tuple(
            s * (n - 1) + d * (k - 1) + 1 - 2 * p
            for n, k, s, p, d in zip(sizes, self.kernel, self.stride, self.pad, self.dilation)
        )

    def pool(self, sizes: Sizes, ceil: bool = True) -> Sizes:
        """The sizes of a pooling's top for a bottom of `sizes`, rounded up, or down without `ceil`.

        >>> Window((3, 3), (2, 2), (0, 0), (1, 1)).pool((32, 32))
        (16, 16)
        """
        sides = []
        for n, k, s, p in zip(sizes, self.kernel, self.stride, self.pad):
            side = (n + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
            # Caffe drops a last window that would start in the padding; it looks when either side is padded.
            if any(self.pad) and (side - 1) * s >= n + p:
                side -= 1
            sides.append(side)
        return tuple(sides)


@dataclass(frozen=True)
class UnevenWindow(Window):
    """A window with another padding behind the values, `behind`, than before them, `pad`."""

    behind: Sizes

    @property
    def end(self) -> Sizes:
        """The padding after the values."""
        return self.behind


@dataclass(frozen=True)
class Geometry(Window):
    """The window of a 2-D convolution, as (height, width) pairs, and its number of groups."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    group: int = 1

    @property
    def is_same(self) -> bool:
        """Whether the output has the input's size at stride 1: pad = dilation * (kernel - 1) / 2 both ways."""
        return all(2 * p == d * (k - 1) for k, p, d in zip(self.kernel, self.pad, self.dilation))


def convolution_window(layer: Layer, rank: int, message: str = "convolution_param") -> Window:
    """The window of a layer with convolution_param over `rank` spatial axes. Raises `CaffeSplitError`.

    `message` is the name of the layer's options where these are another message with the same fields.
    """
    if rank < 1:
        raise CaffeSplitError(f"{layer.where}: its bottom has no axis to slide over.")
    return window_of(layer, Options.of(layer.message, message), rank)


def window_of(layer: Layer, param: Options, rank: int) -> Window:
    """The window that the options `param`, a ConvolutionParameter, give. Raises `CaffeSplitError`."""
    kernel, stride, pad, dilation = (
        _sizes(layer, param, name, rank, default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    dilation = _holes(layer, param, rank) or dilation
    pad, end = _sides(layer, param, rank, pad)
    window = UnevenWindow(kernel, stride, pad, dilation, end) if end else Window(kernel, stride, pad, dilation)
    _check(layer, window)
    return window


def convolution_geometry(layer: Layer) -> Geometry:
    """The geometry of a 2-D convolution over axis 1. Raises `CaffeSplitError` for what is none."""
    if not layer.message.has("convolution_param"):
        raise CaffeSplitError(f"{layer.where} is a {layer.type} without convolution_param.")
    param = Options.of(layer.message, "convolution_param")
    if param.get("axis") != 1:
        raise CaffeSplitError(f"{layer.where} convolves over axis {param.get('axis')}; only axis 1 is handled.")
    group = int(param.get("group"))
    if group < 1:
        raise CaffeSplitError(f"{layer.where}: group is {group}, expected 1 or more.")
    window = convolution_window(layer, 2)
    if isinstance(window, UnevenWindow):
        raise CaffeSplitError(f"{layer.where} pads its sides differently (pad_l, pad_r, pad_t, pad_b).")
    return Geometry(_two(window.kernel), _two(window.stride), _two(window.pad), _two(window.dilation), group)


def pooling_window(layer: Layer, sizes: tuple[int, int]) -> Window:
    """The window of a Pooling over images of `sizes` (height, width). Raises `CaffeSplitError`."""
    param = Options.of(layer.message, "pooling_param")
    if param.get("global_pooling"):
        return Window(sizes, (1, 1), (0, 0), (1, 1))
    for name in HEIGHT_AND_WIDTH:
        _check_two(layer, param, name)
    kernel, stride, pad = (
        tuple(int(param.get(key) or param.get(both)) for key in two) for both, two in HEIGHT_AND_WIDTH.items()
    )
    window = Window(kernel, stride, pad, (1, 1))
    _check(layer, window)
    return window


def pooled_sizes(layer: Layer, sizes: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the top of a Pooling for images of `sizes`.

    They are rounded up unless round_mode is FLOOR or, as some forks have it, ceil_mode is false.

    Raises `CaffeSplitError` as `pooling_window` does.
    """
    param = Options.of(layer.message, "pooling_param")
    if param.get("global_pooling"):
        return 1, 1
    ceil = bool(param.get("ceil_mode")) if param.has("ceil_mode") else param.get("round_mode") == "CEIL"
    return _two(pooling_window(layer, sizes).pool(sizes, ceil))


def pyramid_windows(layer: Layer, sizes: tuple[int, int]) -> list[Window]:
    """The windows of an SPP over images of `sizes` (height, width), level by level: 1, 2, 4, ... per side.

    As in Caffe each is as large as a part of the image, rounded up, and the padding shares out what is left over.
    """
    windows = []
    for level in range(int(Options.of(layer.message, "spp_param").get("pyramid_height"))):
        kernel = tuple(-(-size // 2**level) for size in sizes)
        pad = tuple((k * 2**level - size + 1) // 2 for k, size in zip(kernel, sizes))
        windows.append(Window(kernel, kernel, pad, (1, 1)))
    return windows


def _holes(layer: Layer, param: Options, rank: int) -> Sizes:
    """The dilation under DeepLab's name, `hole`; empty where it is not written."""
    both, sides = [int(value) for value in param.all("hole")], ("hole_h", "hole_w")
    single = [key for key in sides if param.has(key)]
    if not both and not single:
        return ()
    if param.has("dilation") or (both and single) or (single and rank != 2) or len(both) not in (0, 1, rank):
        raise CaffeSplitError(f"{layer.where}: hole with dilation, hole_h or hole_w, or not one per axis; write one.")
    if single:
        return tuple(int(param.get(key)) if param.has(key) else 1 for key in sides)
    return tuple(both * rank if len(both) == 1 else both)


def _sides(layer: Layer, param: Options, rank: int, pad: Sizes) -> tuple[Sizes, Sizes]:
    """(padding before the values, that after them or nothing) with pad_t, pad_b, pad_l and pad_r; 0 if not written."""
    if not any(param.has(f"pad_{side}") for side in "tblr"):
        return pad, ()
    if rank != 2 or any(pad) or layer.type == "Deconvolution":
        raise CaffeSplitError(
            f"{layer.where}: pad_l, pad_r, pad_t, pad_b are known for convolutions over two axes without another pad."
        )
    top, bottom, left, right = (int(param.get(f"pad_{side}")) for side in "tblr")
    return ((top, left), ()) if (top, left) == (bottom, right) else ((top, left), (bottom, right))


def _two(sizes: Sizes) -> tuple[int, int]:
    height, width = sizes
    return height, width


def _check(layer: Layer, window: Window) -> None:
    if min(window.kernel) < 1 or min(window.stride) < 1:
        raise CaffeSplitError(
            f"{layer.where} gives no kernel_size, not both of kernel_h and kernel_w, or a stride of 0."
        )


def lone_side(param: Options, name: str) -> str:
    """What is wrong with a setting that is written for one of height and width alone; "" where it is not."""
    two = HEIGHT_AND_WIDTH[name]
    written = [key for key in two if param.has(key)]
    return f"{written[0]} alone; Caffe takes {name}, or {two[0]} and {two[1]}" if len(written) == 1 else ""


def _check_two(layer: Layer, param: Options, name: str) -> None:
    """Raises `CaffeSplitError` for one of height and width alone; Caffe divides by a stride of 0 then."""
    wrong = lone_side(param, name)
    if wrong:
        raise CaffeSplitError(f"{layer.where}: {wrong}.")


def _sizes(layer: Layer, param: Options, name: str, rank: int, default: int) -> Sizes:
    """A setting of convolution_param, written once, once per axis, or as two fields for height and width."""
    two = HEIGHT_AND_WIDTH.get(name, ())
    written = [key for key in two if param.has(key)]
    if written:
        if rank != 2:
            raise CaffeSplitError(f"{layer.where}: {' and '.join(written)} for {rank} spatial axes; write {name}.")
        if name == "stride":
            _check_two(layer, param, name)
        return tuple(int(param.get(key)) for key in two)
    values = tuple(int(value) for value in param.all(name)) or (default,)
    if len(values) not in (1, rank):
        raise CaffeSplitError(f"{layer.where}: {len(values)} values of {name} for {rank} spatial axes.")
    return values * rank if len(values) == 1 else values
