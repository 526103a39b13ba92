"""Nets that give an image, boxes, or a sequence."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.nets.text import Text


def _vgg(net: Text, counts: tuple[int, ...], pad: int = 1) -> tuple[str, list[str]]:
    """VGG's convolutions; also the blobs behind each pooling."""
    x, pools = "data", []
    for stage, count in enumerate(counts):
        for number in range(count):
            x = net.conv_relu(x, min(64 * 2**stage, 512), 3, pad=pad if not stage and not number else 1)
        x = net.pool(x, 2, 2)
        pools.append(x)
    return x, pools


def _up(net: Text, bottom: str, outputs: int, kernel: int, stride: int) -> str:
    size = f"num_output: {outputs} kernel_size: {kernel} stride: {stride} bias_term: false"
    return net.layer("Deconvolution", bottom, f"convolution_param {{ {size} }}")


def fcn8s() -> str:
    """Long, Shelhamer and Darrell 2015; 32 channels in place of 4096, so that it runs everywhere."""
    net = Text("FCN-8s", 1, 3, 96, 96)
    x, pools = _vgg(net, (2, 2, 3, 3, 3), pad=100)
    x = net.conv_relu(net.conv_relu(x, 32, 7, pad=0), 32, 1)
    x = _up(net, net.conv(x, 21, 1), 21, 4, 2)
    for pool, offset in ((pools[3], 5), (pools[2], 9)):
        scores = net.layer("Crop", f"{net.conv(pool, 21, 1)} {x}", f"crop_param {{ axis: 2 offset: {offset} }}")
        x = _up(net, net.add(x, scores), 21, *((4, 2) if offset == 5 else (16, 8)))
    net.layer("Crop", f"{x} data", "crop_param { axis: 2 offset: 31 }", name="score")
    return str(net)


def unet() -> str:
    """Ronneberger et al. 2015, with a quarter of the channels."""
    net, x, ways = Text("U-Net", 1, 1, 572, 572), "data", []
    for channels in (16, 32, 64, 128, 256):
        x = net.conv_relu(net.conv_relu(x, channels, 3, pad=0), channels, 3, pad=0)
        if channels < 256:
            ways.append(x)
            x = net.pool(x, 2, 2)
    for channels, way, offset in zip((128, 64, 32, 16), ways[::-1], (4, 16, 40, 88)):
        x = net.relu(_up(net, x, channels, 2, 2))
        cut = net.layer("Crop", f"{way} {x}", f"crop_param {{ axis: 2 offset: {offset} }}")
        x = net.concat(cut, x)
        x = net.conv_relu(net.conv_relu(x, channels, 3, pad=0), channels, 3, pad=0)
    net.softmax(net.conv(x, 2, 1))
    return str(net)


def segnet() -> str:
    """Badrinarayanan et al. 2015, with Caffe's BatchNorm, a quarter of the channels, and the fork's Upsample."""
    net, x, masks = Text("SegNet", 1, 3, 64, 96), "data", []
    widths = [(16, 2), (32, 2), (64, 3), (128, 3), (128, 3)]
    for number, (channels, count) in enumerate(widths):
        for _ in range(count):
            x = net.conv_norm(x, channels, 3)
        masks.append(f"mask{number}")
        size = "pooling_param { kernel_size: 2 stride: 2 }"
        x = net.layer("Pooling", x, size, name=f"pool{number}", tops=f"pool{number} {masks[-1]}")
    for number, (channels, count) in reversed([*enumerate(widths)]):
        x = net.layer("Upsample", f"{x} {masks[number]}", "upsample_param { scale: 2 }")
        below = widths[max(number - 1, 0)][0]
        for place in range(count):
            last = place == count - 1
            x = net.conv_norm(x, below if last else channels, 3)
    net.softmax(net.conv(x, 11, 3))
    return str(net)


def ssd300() -> str:
    """Liu et al. 2016, on VGG-16 with 300x300 images and 21 classes."""
    net = Text("SSD300", 1, 3, 300, 300)
    x = "data"
    sources: list[str] = []
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for _ in range(count):
            x = net.conv_relu(x, min(64 * 2**stage, 512), 3)
        if stage == 3:
            sources.append(net.layer("Normalize", x, "norm_param { across_spatial: false channel_shared: false }"))
        x = net.pool(x, 2, 2) if stage < 4 else net.pool(x, 3, 1, 1)
    x = net.conv_relu(net.conv_relu(x, 1024, 3, pad=6, more="dilation: 6"), 1024, 1)
    sources.append(x)
    for inner, outputs, stride, pad in ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0)):
        x = net.conv_relu(net.conv_relu(x, inner, 1), outputs, 3, stride, pad)
        sources.append(x)
    parts: dict[str, list[str]] = {"loc": [], "conf": [], "prior": []}
    least = [30, 60, 111, 162, 213, 264, 315]
    for place, source in enumerate(sources):
        ratios = [2] if place in (0, 4, 5) else [2, 3]
        boxes = 2 + 2 * len(ratios)
        for kind, values in (("loc", 4), ("conf", 21)):
            made = net.conv(source, boxes * values, 3)
            turned = net.layer("Permute", made, "permute_param { order: 0 order: 2 order: 3 order: 1 }")
            parts[kind].append(net.layer("Flatten", turned))
        options = f"min_size: {least[place]} max_size: {least[place + 1]} flip: true clip: false offset: 0.5 "
        options += " ".join(f"aspect_ratio: {ratio}" for ratio in ratios) + " variance: 0.1 variance: 0.1 "
        parts["prior"].append(
            net.layer("PriorBox", f"{source} data", f"prior_box_param {{ {options} variance: 0.2 variance: 0.2 }}")
        )
    loc, conf = net.concat(*parts["loc"]), net.concat(*parts["conf"])
    prior = net.layer("Concat", " ".join(parts["prior"]), "concat_param { axis: 2 }")
    table = net.layer("Reshape", conf, "reshape_param { shape { dim: 0 dim: -1 dim: 21 } }")
    scores = net.layer("Flatten", net.softmax(table, 2))
    options = "num_classes: 21 keep_top_k: 200 confidence_threshold: 0.01 code_type: CENTER_SIZE"
    nms = "nms_param { nms_threshold: 0.45 top_k: 400 }"
    net.layer(
        "DetectionOutput", f"{loc} {scores} {prior}", f"detection_output_param {{ {options} {nms} }}", name="found"
    )
    return str(net)


def lstm() -> str:
    """Two layers of long short-term memory over 16 steps (Hochreiter and Schmidhuber 1997, as Caffe's LSTM)."""
    net = Text("LSTM", 16, 2, 40)
    net.input("cont", 16, 2)
    x = "data"
    for _ in range(2):
        x = net.layer("LSTM", f"{x} cont", "recurrent_param { num_output: 64 }")
    scores = net.layer("InnerProduct", x, "inner_product_param { num_output: 10 axis: 2 }")
    net.softmax(scores, 2)
    return str(net)


NETS: dict[str, Callable[[], str]] = {
    "FCN-8s": fcn8s,
    "U-Net": unet,
    "SegNet": segnet,
    "SSD300": ssd300,
    "LSTM": lstm,
}
