"""One layer of a net: made from its text, set up, and checked."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import replace

from caffe_split.engine.layers.base import MOST_AXES, MOST_VALUES, Layer, Place, Shape
from caffe_split.engine.layers.data_layer import DataLayer
from caffe_split.engine.layers.labels import Labelled
from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer as Text


def make_layer(text: Text, place: Place, bottoms: list[Shape]) -> tuple[Layer, list[Shape]]:
    """The layer of a text, set up for bottoms of these shapes, and the shapes of its tops.

    Raises `CaffeSplitError` where they do not fit, and for tops that are larger than Caffe's blobs can be.
    """
    engine = record_for(text).engine
    assert engine is not None, "check_net has refused the others"
    module = importlib.import_module(f"caffe_split.engine.layers.{engine.module}")
    place = replace(place, phase=text.phase_in(place.phase))
    layer: Layer = getattr(module, engine.class_name or text.type)(text, place)
    try:
        layer.setup(bottoms)
        shapes = [tuple(shape) for shape in layer.shapes(bottoms)]
    except CaffeSplitError as error:
        raise _located(error, text) from None
    except (RuntimeError, IndexError, ValueError, ArithmeticError) as error:
        raise layer.misfit(bottoms, error) from error
    layer.fitted = bottoms
    for name, shape in zip(text.tops, shapes):
        if len(shape) > MOST_AXES or not 0 <= math.prod(shape) <= MOST_VALUES:
            raise layer.error(f"top '{name}' of shape {shape}; Caffe's blobs have at most 32 axes, 2^31 - 1 values.")
    return layer, shapes


def _located(error: CaffeSplitError, text: Text) -> CaffeSplitError:
    """The error with the layer in front, unless it names it already."""
    message = str(error)
    return error if f"'{text.name}'" in message else CaffeSplitError(f"{text.where}: {message}")


def loss_weights(text: Text) -> dict[int, float]:
    """The loss weight of each top that has one, by the top's index: as written, else 1 for the first of a loss."""
    weights = [float(value) for value in text.message.get_all("loss_weight")]
    if not weights and record_for(text).is_loss:
        weights = [1.0] + [0.0] * (len(text.tops) - 1)
    return {index: weight for index, weight in enumerate(weights) if weight}


def check_labels(layers: Sequence[Layer]) -> None:
    """Raises `CaffeSplitError` for labels that are no class, where the data layer knows all labels in advance."""
    made: dict[str, Layer] = {}
    for layer in layers:
        if isinstance(layer, Labelled) and hasattr(layer, "classes"):
            source = made.get(layer.text.bottoms[1])
            labels = source.labels(layer.text.bottoms[1]) if isinstance(source, DataLayer) else None
            if labels is not None:
                layer.check_all(labels)
        made.update(dict.fromkeys(layer.text.tops, layer))
