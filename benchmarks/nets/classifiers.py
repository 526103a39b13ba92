"""Nets that classify images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.nets.text import Text


def vgg16() -> str:
    """Simonyan and Zisserman 2014, configuration D."""
    net, x = Text("VGG-16", 1, 3, 224, 224), "data"
    for count, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(count):
            x = net.conv_relu(x, channels, 3)
        x = net.pool(x, 2, 2)
    for _ in range(2):
        x = net.relu(net.product(x, 4096))
        x = net.layer("Dropout", x, tops=x)
    net.softmax(net.product(x, 1000))
    return str(net)


def resnet(counts: tuple[int, ...]) -> str:
    """He et al. 2015, with bottlenecks; the stride is that of the first convolution of a block."""
    net = Text("ResNet", 1, 3, 224, 224)
    x = net.pool(net.conv_norm("data", 64, 7, 2), 3, 2)
    for stage, count in enumerate(counts):
        for block in range(count):
            width, stride = 64 * 2**stage, 2 if stage and not block else 1
            way = x if block else net.conv_norm(x, 4 * width, 1, stride, relu="")
            y = net.conv_norm(net.conv_norm(x, width, 1, stride), width, 3)
            x = net.relu(net.add(way, net.conv_norm(y, 4 * width, 1, relu="")))
    net.softmax(net.product(net.pool(x, 7, 1, kind="AVE"), 1000))
    return str(net)


def squeezenet() -> str:
    """Iandola et al. 2016, version 1.1."""
    net = Text("SqueezeNet", 1, 3, 227, 227)
    x = net.pool(net.conv_relu("data", 64, 3, 2, 0), 3, 2)
    for place, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        y = net.conv_relu(x, squeeze, 1)
        x = net.concat(net.conv_relu(y, 4 * squeeze, 1), net.conv_relu(y, 4 * squeeze, 3))
        if place in (1, 3):
            x = net.pool(x, 3, 2)
    x = net.layer("Dropout", x, tops=x)
    net.softmax(net.global_pool(net.conv_relu(x, 1000, 1)))
    return str(net)


def mobilenet_v1() -> str:
    """Howard et al. 2017."""
    net = Text("MobileNet-v1", 1, 3, 224, 224)
    x, channels = net.conv_norm("data", 32, 3, 2), 32
    wide = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for outputs, stride in wide:
        x = net.conv_norm(x, channels, 3, stride, more=f"group: {channels}")
        x, channels = net.conv_norm(x, outputs, 1), outputs
    net.softmax(net.conv(net.global_pool(x), 1000, 1))
    return str(net)


def mobilenet_v2() -> str:
    """Sandler et al. 2018, with ReLU in place of ReLU6, which Caffe does not have."""
    net = Text("MobileNet-v2", 1, 3, 224, 224)
    x, channels = net.conv_norm("data", 32, 3, 2), 32
    for factor, outputs, count, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(count):
            stride, inner = (first if not block else 1), factor * channels
            y = net.conv_norm(x, inner, 1) if factor > 1 else x
            y = net.conv_norm(y, inner, 3, stride, more=f"group: {inner}")
            y = net.conv_norm(y, outputs, 1, relu="")
            x, channels = (net.add(x, y) if stride == 1 and channels == outputs else y), outputs
    net.softmax(net.conv(net.global_pool(net.conv_norm(x, 1280, 1)), 1000, 1))
    return str(net)


def densenet121() -> str:
    """Huang et al. 2016."""
    net = Text("DenseNet-121", 1, 3, 224, 224)
    x, channels = net.pool(net.conv_norm("data", 64, 7, 2), 3, 2, 1), 64
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            y = net.conv_norm(net.relu(net.norm(x, in_place=False)), 128, 1)
            x, channels = net.concat(x, net.conv(y, 32, 3, more="bias_term: false")), channels + 32
        if stage < 3:
            channels //= 2
            x = net.relu(net.norm(x, in_place=False))
            x = net.pool(net.conv(x, channels, 1, more="bias_term: false"), 2, 2, kind="AVE")
    net.softmax(net.conv(net.global_pool(net.relu(net.norm(x, in_place=False))), 1000, 1))
    return str(net)


def inception_v4() -> str:
    """Szegedy et al. 2016."""
    net = Text("Inception-v4", 1, 3, 299, 299)
    conv, even = net.conv_norm, net.uneven
    x = conv(conv(conv("data", 32, 3, 2, 0), 32, 3, 1, 0), 64, 3)
    x = net.concat(net.pool(x, 3, 2), conv(x, 96, 3, 2, 0))
    tall = even(even(conv(x, 64, 1), 64, 1, 7), 64, 7, 1)
    x = net.concat(conv(conv(x, 64, 1), 96, 3, 1, 0), conv(tall, 96, 3, 1, 0))
    x = net.concat(conv(x, 192, 3, 2, 0), net.pool(x, 3, 2))
    for _ in range(4):
        mean = conv(net.pool(x, 3, 1, 1, "AVE"), 96, 1)
        x = net.concat(conv(x, 96, 1), conv(conv(x, 64, 1), 96, 3), conv(conv(conv(x, 64, 1), 96, 3), 96, 3), mean)
    x = net.concat(net.pool(x, 3, 2), conv(x, 384, 3, 2, 0), conv(conv(conv(x, 192, 1), 224, 3), 256, 3, 2, 0))
    for _ in range(7):
        far = even(even(even(even(conv(x, 192, 1), 192, 1, 7), 224, 7, 1), 224, 1, 7), 256, 7, 1)
        mean = conv(net.pool(x, 3, 1, 1, "AVE"), 128, 1)
        x = net.concat(conv(x, 384, 1), even(even(conv(x, 192, 1), 224, 1, 7), 256, 7, 1), far, mean)
    near = conv(conv(x, 192, 1), 192, 3, 2, 0)
    x = net.concat(net.pool(x, 3, 2), near, conv(even(even(conv(x, 256, 1), 256, 1, 7), 320, 7, 1), 320, 3, 2, 0))
    for _ in range(3):
        one, two = conv(x, 384, 1), even(even(conv(x, 384, 1), 448, 1, 3), 512, 3, 1)
        parts = [even(way, 256, *sides) for way in (one, two) for sides in ((1, 3), (3, 1))]
        x = net.concat(conv(x, 256, 1), *parts, conv(net.pool(x, 3, 1, 1, "AVE"), 256, 1))
    net.softmax(net.product(net.pool(x, 8, 1, kind="AVE"), 1000))
    return str(net)


NETS: dict[str, Callable[[], str]] = {
    "VGG-16": vgg16,
    "ResNet-50": partial(resnet, (3, 4, 6, 3)),
    "ResNet-152": partial(resnet, (3, 8, 36, 3)),
    "SqueezeNet 1.1": squeezenet,
    "MobileNet v1": mobilenet_v1,
    "MobileNet v2": mobilenet_v2,
    "DenseNet-121": densenet121,
    "Inception-v4": inception_v4,
}
