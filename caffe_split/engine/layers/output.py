"""HDF5Output, which writes a batch into a file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.errors import CaffeSplitError
from caffe_split.files import replacing


class HDF5Output(Layer):
    """Writes its bottoms as the data sets "data" and "label", each with four axes. Caffe writes one batch, too."""

    options_name = "hdf5_output_param"
    eager = True

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.path = str(self.options.get("file_name"))
        self.written = False

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        import h5py

        if self.written:
            raise self.error(
                f"it has written its batch to '{self.path}'; it writes one, and Caffe stops at the second."
            )
        with contextlib.ExitStack() as stack:
            try:
                temporary = stack.enter_context(replacing(self.path, force=False))
            except CaffeSplitError as error:
                raise self.error(str(error)) from None
            with h5py.File(temporary, "w") as stream:
                for name, bottom in zip(("data", "label"), bottoms):
                    values = bottom.detach().float().cpu().numpy()
                    stream[name] = values.reshape(*values.shape, *[1] * (4 - values.ndim))
        self.written = True
        return ()
