"""Parts of decoded images, as planes of their channels, cut out by the compiled kernels in one pass."""

from __future__ import annotations

import ctypes

import numpy as np
from PIL import Image

from caffe_split.data.images import Picture
from caffe_split.engine.kernels.build import library


class _Array(ctypes.Structure):
    """Arrow's C data interface: the struct ArrowArray."""


_Array._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    *((name, ctypes.c_void_p) for name in ("dictionary", "release", "private_data")),
]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def cut(picture: Picture, corner: tuple[int, int], mirrored: bool, out: np.ndarray) -> bool:
    """Write a part of a picture into `out`, (channels, height, width), uint8. Whether that could be done.

    It cannot without compiled kernels, with a Pillow before 11.2, which does not say where the pixels lie, and for an
    image that Pillow holds in several pieces (above 16 MB, unless it was told otherwise) or with gaps.

    corner: the row and the column at which the part begins.
    """
    found = library()
    export = getattr(picture.image, "__arrow_c_array__", None)
    if found is None or export is None or not out.flags.c_contiguous:
        return False
    if Image.core.get_alignment() != 1:  # type: ignore[attr-defined]
        return False  # There may be gaps between the rows (PILLOW_ALIGNMENT), of which an older Pillow says nothing.
    try:
        # The pixels are there for as long as the capsules.
        held = export()
    except ValueError:
        return False
    array = _Array.from_address(_pointer(held[1], b"arrow_array"))
    pixels = array.children[0].contents if array.n_children else array
    channels, height, width = out.shape
    shape = (ctypes.c_int64 * 7)(picture.shape[2], *corner, height, width, mirrored, channels)
    found.picture_cut(pixels.buffers[1], shape, out.ctypes.data)
    return True
