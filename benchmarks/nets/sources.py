"""Where nets come from: this project, the sources of the built Caffe, and the published architectures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.nets import NETS

ROOT = Path(__file__).resolve().parents[2]
CAFFE = Path(sys.prefix) / "share/caffe"


@dataclass(frozen=True)
class Source:
    """A net: its file, or the text that a generator gives; the stages that it is taken in, and shapes of its inputs."""

    path: Path | None
    text: str = ""
    stages: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


# Shapes for nets of Caffe whose data sets are not there, or whose batch is larger than a comparison needs, by the
# beginning of the path.
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "examples/cifar10/": {"data": (1, 3, 32, 32)},
    "examples/mnist/": {"data": (1, 1, 28, 28)},
    "examples/siamese/mnist_siamese.": {"data": (1, 1, 28, 28)},
    "examples/siamese/mnist_siamese_train": {"pair_data": (1, 2, 28, 28)},
    "examples/hdf5_classification/": {"data": (1, 4)},
    "examples/feature_extraction/": {"data": (1, 3, 227, 227)},
    "examples/finetune_pascal_detection/": {"data": (1, 3, 227, 227)},
    "models/bvlc_googlenet/": {"data": (1, 3, 224, 224)},
    "models/": {"data": (1, 3, 227, 227)},
}
_STAGES = {"examples/mnist/mnist_autoencoder.prototxt": ("test-on-test",)}


def sources() -> dict[str, Source]:
    """All nets by name."""
    found = {path.parent.name: Source(path) for path in sorted(ROOT.glob("prototxt/*/deploy.prototxt"))}
    for path in sorted([*CAFFE.glob("models/**/*.prototxt"), *CAFFE.glob("examples/**/*.prototxt")]):
        name = str(path.relative_to(CAFFE))
        if "solver" in path.name:
            continue
        shapes = next((shapes for start, shapes in _SHAPES.items() if name.startswith(start)), {})
        found[name] = Source(path, stages=_STAGES.get(name, ()), inputs=shapes)
    return {**found, **{name: Source(None, make()) for name, make in NETS.items()}}
