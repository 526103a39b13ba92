"""PyTorch classes in the place of Python layers.

A Python layer names a class of Caffe's own Python interface, which the engine cannot run. Its author or a
user of the net writes the layer again as a PyTorch class and registers it under the names in the net. No module is ever
imported because a net names it: only because the user does.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from caffe_split.errors import CaffeSplitError
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# Makes a layer from its param_str and the phase, TRAIN or TEST.
Maker = Callable[[str, str], Any]
_Class = TypeVar("_Class", bound=Maker)
_KNOWN: dict[tuple[str, str], Maker] = {}
# Published layers that the engine has itself -> the module with the class of that name.
_OURS = {("rpn.proposal_layer", "ProposalLayer"): "caffe_split.engine.layers.proposal"}


def python_layer(module: str, layer: str) -> Callable[[_Class], _Class]:
    """Register a class for the Python layers whose python_param has this `module` and `layer`; a decorator.

    The class is called with the param_str and the phase ("TRAIN" or "TEST"). What it makes, a `torch.nn.Module` for
    instance, is called with the bottoms and returns the top, or a tuple of tops; without bottoms it returns the next
    batch. Gradients are autograd's. The parameters of a module are the blobs of the layer, in their order; its
    buffers that `state_dict` has follow, as state. The shapes of the tops are found by a call with zeros, or by its
    method `shapes(bottoms)`, from and to lists of shapes:

        @python_layer("pyloss", "EuclideanLossLayer")
        class Euclidean(torch.nn.Module):
            def __init__(self, param_str, phase):
                super().__init__()

            def forward(self, a, b):
                return (a - b).square().sum() / (2 * len(a))
    """

    def register(made: _Class) -> _Class:
        _KNOWN[module, layer] = made
        return made

    return register


def load_python_layers(name: str) -> None:
    """Import the module that registers classes: a file that ends in .py, or a module's name.

    Raises `CaffeSplitError` where it is not there, cannot be imported, or registers nothing.
    """
    try:
        if name.endswith(".py"):
            _import_file(Path(name))
        else:
            # As `python -m` does, which starts the training.
            sys.path.insert(0, "")
            try:
                importlib.import_module(name)
            finally:
                sys.path.remove("")
    except ModuleNotFoundError as error:
        raise CaffeSplitError(f"--python-layers {name}: {error}; give a module or a file that ends in .py") from None
    except (ImportError, SyntaxError, OSError) as error:
        raise CaffeSplitError(f"--python-layers {name}: {type(error).__name__}: {error}") from error
    if not _KNOWN:
        raise CaffeSplitError(
            f"--python-layers {name}: it registers no class; put @python_layer(MODULE, LAYER) of caffe_split.engine "
            "before the class, with the names in the net's python_param"
        )


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise CaffeSplitError(f"--python-layers {path}: no such file seen from {Path.cwd()}")
    name = f"caffe_split_layers_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def names_of(layer: Layer) -> tuple[str, str]:
    """The module and the class that a Python layer names."""
    options = Options.of(layer.message, "python_param")
    return str(options.get("module")), str(options.get("layer"))


def maker_of(layer: Layer) -> Maker:
    """The class that stands for a Python layer, which `lacking` has found to be there."""
    names = names_of(layer)
    if names not in _KNOWN:
        made: Maker = getattr(importlib.import_module(_OURS[names]), names[1])
        return made
    return _KNOWN[names]


def problems(layer: Layer) -> Iterator[str]:
    """What is wrong with the text of a Python layer."""
    if not all(names_of(layer)):
        yield "python_param gives no module and layer"


def lacking(layer: Layer) -> Iterator[str]:
    """The class for a Python layer that nobody has registered."""
    module, name = names_of(layer)
    if module and name and (module, name) not in (_KNOWN.keys() | _OURS.keys()):
        yield (
            f'no PyTorch class is known for layer: "{name}" of module: "{module}"; write one, register it with '
            f'@caffe_split.engine.python_layer("{module}", "{name}"), and name its file: --python-layers FILE.py'
        )
