"""The classes of single images, as Caffe's classification example prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_split.errors import CaffeSplitError, expect, expect_count
from caffe_split.files import PathLike
from caffe_split.inference.given import DEFAULTS, RunOptions, open_net, run_net
from caffe_split.inference.images import ImageInput, Preprocessing
from caffe_split.inference.labels import check_names, read_labels

PLAIN = Preprocessing()


@dataclass(frozen=True)
class Prediction:
    """The highest classes of an image: (score, name), the highest first.

    notes: what of the net was not computed, and why, and what else is to be known; the same for all images of a call.
    """

    image: Path
    classes: tuple[tuple[float, str], ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """As Caffe's classification example prints them."""
        head = f"---------- Prediction for {self.image} ----------"
        return [head, *(f'{score:.4f} - "{name}"' for score, name in self.classes)]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"image": str(self.image), "classes": [{"name": name, "score": score} for score, name in self.classes]}


def classify(
    net: PathLike,
    weights: PathLike,
    images: Sequence[PathLike],
    *,
    labels: PathLike | None = None,
    top: int = 5,
    preprocessing: Preprocessing = PLAIN,
    options: RunOptions = DEFAULTS,
) -> list[Prediction]:
    """The `top` classes that a deploy net gives each of `images`, as Caffe's classification example finds them.

    Each whole image is resized to the net's input; `preprocessing` says what is done to its pixels, and `options` how
    the net is run. `labels` names a file with a class per line; without it classes are numbers.

    Raises:
        CaffeSplitError: a file is no image, the net has not one input of 1 or 3 channels and one output, the weights do
            not fit, or there is not a label for each score.

    >>> import os, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "deploy.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 2 dim: 2 } } }
    ... layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
    ...         inner_product_param { num_output: 3 bias_term: false } }''')
    >>> blue = np.zeros((3, 3, 4)); blue[0, 0] = 0.25  # the mean of the first channel, which is blue
    >>> cs.write_weights(weights, {"ip": [blue.reshape(3, 12)]})
    >>> Image.new("RGB", (8, 8), (0, 0, 255)).save(os.path.join(folder, "a.png"))
    >>> (found,) = cs.classify(net, weights, [os.path.join(folder, "a.png")], top=1)
    >>> found.classes
    ((255.0, '0'),)
    """
    expect(options, RunOptions, "RunOptions(...) as options")
    expect_count(top, "top")
    expect(preprocessing, Preprocessing, "Preprocessing(...) as preprocessing")
    given = open_net(net, options)
    source = ImageInput(given, preprocessing)
    names = None if labels is None else read_labels(labels)
    read = [source.read(path) for path in images]
    found = []
    with run_net(given, weights, options, shapes={source.name: (1, *source.shape)}) as session:
        if len(session.outputs) != 1:
            raise CaffeSplitError(
                f"{given.path}: a net that classifies has one output; it has {', '.join(session.outputs)}."
            )
        for path, values in zip(images, read):
            scores = session.forward({source.name: values[None]}).blobs[session.outputs[0]][0].ravel()
            classes = check_names(names, len(scores), labels)
            order = np.argsort(-scores, kind="stable")[:top]
            best = tuple((float(scores[index]), classes[index]) for index in order)
            found.append(Prediction(Path(path), best, (*source.notes, *session.notes)))
    return found
