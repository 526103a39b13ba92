"""Which engine runs nets here: the built Caffe where there is one, else PyTorch, else OpenCV."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from caffe_split.errors import CaffeSplitError

# Engine -> (the module it needs, what people call it), the best witness first.
ENGINES = {"caffe": ("caffe", "Caffe"), "torch": ("torch", "the torch engine"), "opencv": ("cv2", "OpenCV")}
BUILD = "build Caffe with ./tools/build_caffe"
INSTALL = "install PyTorch with ./tools/environment --no-caffe --torch, or pip install 'caffe-split[torch]'"


def is_there(engine: str) -> bool:
    """Whether the Python module of an engine is installed. Nothing is loaded."""
    return importlib.util.find_spec(ENGINES[engine][0]) is not None


def choose_engine(among: Sequence[str] = ("caffe", "torch")) -> str:
    """The first of these that is installed. Raises `CaffeSplitError` with the next steps where none is."""
    for engine in among:
        if is_there(engine):
            return engine
    other = ". Deploy nets also run in OpenCV: pip install 'opencv-python-headless<5'" if "opencv" in among else ""
    raise CaffeSplitError(
        f"there is nothing here to run nets, neither Caffe nor PyTorch: {BUILD}, or {INSTALL}{other}."
    )
