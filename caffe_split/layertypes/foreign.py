"""Fields and values that a layer has from a fork of Caffe: which of them may change its sizes.

BVLC's Caffe does not have them, so what they do is not known. Nothing is computed as if they were not there.
"""

from __future__ import annotations

from caffe_split.formats.prototxt import check
from caffe_split.net.layers import Layer

# What only chooses an implementation, a precision or how records are read (NVCaffe, Intel's Caffe).
_NO_SIZE = frozenset(
    [
        "forward_type",
        "backward_type",
        "forward_math",
        "backward_math",
        "cudnn_math_override",
        "debug",
        "data_param.threads",
        "data_param.parser_threads",
        "data_param.cache",
        "data_param.shuffle",
        "transform_param.use_gpu_transform",
        "transform_param.random_seed",
    ]
)


def foreign_fields(layer: Layer) -> list[check.Problem]:
    """The fields and values of a layer that BVLC's Caffe does not have, whatever schema its net was read by."""
    return check.foreign(layer.message, "LayerParameter")


def why_not_known(layer: Layer) -> str | None:
    """Why the sizes of a layer and of its blobs are not known, or None: fields of a fork that may change them."""
    found = list(dict.fromkeys(problem.path for problem in foreign_fields(layer) if _may_change_sizes(problem.path)))
    if not found:
        return None
    return f"what its {', '.join(found)} {'does' if len(found) == 1 else 'do'} is known to a fork of Caffe only"


def _may_change_sizes(path: str) -> bool:
    *above, name = path.split(".")
    # Rates and initial values have no say in sizes; nor has `engine`, wherever it stands.
    in_filler = any(message.endswith("filler") for message in above)
    return not (path in _NO_SIZE or name == "engine" or above[:1] == ["param"] or in_filler)
