"""Options of commands that read images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_split.cli.ranges import FiniteRange

if TYPE_CHECKING:
    from caffe_split.inference.images import Preprocessing

IMAGE_OPTIONS = "--mean, --scale, --rgb and --transform-of"
# Their values where none of them is given.
NO_IMAGES = (None, None, False, None)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --mean, --scale, --rgb and --transform-of."""
    mean = click.option(
        "--mean",
        metavar="FILE|VALUES",
        help="For images: subtract these values (104,117,123; blue first), or the mean per channel of a .binaryproto "
        "or .npy file.  [default: that of the Input layer's transform_param]",
    )
    scale = click.option(
        "--scale", type=FiniteRange(), metavar="X", help="For images: multiply by this after subtracting the mean."
    )
    rgb = click.option("--rgb", is_flag=True, help="For images: the net and --mean have red first, not blue.")
    transform_of = click.option(
        "--transform-of",
        type=click.Path(path_type=Path),
        metavar="NET",
        help="For images: with the mean and the scale of NET's TEST data layer, such as train_val.prototxt's.",
    )
    return mean(scale(rgb(transform_of(command))))


def preprocessing(mean: str | None, scale: float | None, rgb: bool, transform_of: Path | None) -> Preprocessing:
    """The library's form of these options."""
    from caffe_split.inference.images import Preprocessing

    return Preprocessing(mean, scale, rgb, transform_of)
