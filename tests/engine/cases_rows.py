"""Cases of the layers that choose records, of Im2col and of SPP."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.case import Case, Rng, image, layer


def trained(rng: Rng, text: str, inputs: dict[str, tuple[int, ...]], integers: dict[str, int]) -> Case:
    """Layers from xs to z, between learnt factors of x and a loss of z and t.

    Caffe dies of `force_backward` where a bottom gets no gradient; without it, only what is under a loss gets one.
    """
    before = layer("Scale", "x", "xs").replace('"l"', '"scale"')
    after = layer("EuclideanLoss", "z t").replace('"l"', '"loss"')
    return Case(before + text + after, inputs, integers=integers, constant=("x", "t", "u"), force=False)


def reindexed(rng: Rng) -> Case:
    shape, count = image(rng), int(rng.integers(1, 8))
    inputs = {"x": shape, "n": (count,), "t": (count, *shape[1:])}
    return trained(rng, layer("BatchReindex", "xs n", "z"), inputs, {"n": shape[0]})


def filtered(rng: Rng, selector: tuple[int, ...] = ()) -> Case:
    """Of 12 records of two blobs those where s is not 0; layers behind follow."""
    text = layer("Filter", "xs u s", "f t")
    for kind, wires in (("Softmax", "f n"), ("Flatten", "n z")):
        text += layer(kind, *wires.split()).replace('"l"', f'"{kind}"')
    return trained(rng, text, {"x": (12, 3, 4), "u": (12, 12), "s": (12, *selector)}, {"s": 2})


def im2col(rng: Rng, options: str, rank: int = 2, before: int = 1) -> Case:
    sides = [int(side) for side in rng.integers(6, 9, size=rank)]
    text = layer("Im2col", options=f"convolution_param {{ axis: {before} {options} }}")
    return Case(text, {"x": (*map(int, rng.integers(1, 4, size=before)), 3, *sides)})


def pyramid(rng: Rng, options: str, least: int = 9) -> Case:
    n, c, h, w = image(rng, least=least)
    # Sizes for which the padding stays below the kernel.
    sides = [side + 1 if side in (9, 10, 13) else side for side in (h, w)]
    return Case(layer("SPP", options=f"spp_param {{ {options} }}"), {"x": (n, c, *sides)})


CASES: dict[str, Callable[[Rng], Case]] = {
    "batch_reindex": reindexed,
    "filter": filtered,
    "filter_long_selector": lambda r: filtered(r, (1, 1)),
    "im2col": lambda r: im2col(r, "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 0"),
    "im2col_dilated": lambda r: im2col(r, "kernel_size: 2 dilation: 3 dilation: 2 pad: 1"),
    "im2col_each": lambda r: im2col(r, "kernel_size: 3 stride: 2 stride: 1 force_nd_im2col: true"),
    "im2col_1d": lambda r: im2col(r, "kernel_size: 3 stride: 2 pad: 1", rank=1),
    "im2col_3d": lambda r: im2col(r, "kernel_size: 2 kernel_size: 3 kernel_size: 1 pad: 1", rank=3),
    "im2col_axis": lambda r: im2col(r, "kernel_size: 3 pad: 1", before=2),
    "spp": lambda r: pyramid(r, "pyramid_height: 3"),
    "spp_one": lambda r: pyramid(r, "pyramid_height: 1"),
    "spp_ave": lambda r: pyramid(r, "pyramid_height: 2 pool: AVE", least=5),
    "spp_ave_three": lambda r: pyramid(r, "pyramid_height: 3 pool: AVE"),
}
