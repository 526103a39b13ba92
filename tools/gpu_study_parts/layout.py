"""Where every learnt blob of a net lies in one flat array."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffe_split.errors import CaffeSplitError
from gpu_study_parts.net import Leaf, Param, Program, Site, Weights, leaves, mixers


class Layout:
    """Where every learnt blob lies in one flat array of float32.

    First what is used as it is (kernels that were not split, then all factors, all biases, and the inner product), then
    the parts of the split kernels, those of a site side by side. `places`: (layer, index) -> (first, number of values).
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.places: dict[tuple[str, int], tuple[int, int]] = {}
        self.size = 0
        whole = [site for site in program.sites if isinstance(site.kernel, Leaf)]
        self.split = [site for site in program.sites if not isinstance(site.kernel, Leaf)]
        for site in whole:
            self._put(site.kernel.layer, 0)
        self.whole = self.size  # values of kernels that were not split
        for index in (0, 1):
            for _, scale, _ in program.norms:
                self._put(scale, index)
        self._put(program.fc, 0)
        self._put(program.fc, 1)
        for site in self.split:
            for name in (*leaves(site.kernel), *mixers(site.kernel)):
                self._put(name, 0)
        missing = set(program.params) - set(self.places)
        if missing:
            raise CaffeSplitError(f"blobs that tools/gpu_study does not know where to put: {sorted(missing)}.")
        self.lr_mult = self._fill(lambda param: param.lr_mult)
        self.decay_mult = self._fill(lambda param: param.decay_mult)

    def _put(self, layer: str, index: int) -> None:
        count = int(np.prod(self.program.params[layer, index].shape))
        self.places[layer, index] = (self.size, count)
        self.size += count

    def _fill(self, value: Callable[[Param], float]) -> np.ndarray:
        flat = np.empty(self.size, np.float32)
        for key, (first, count) in self.places.items():
            flat[first : first + count] = value(self.program.params[key])
        return flat

    def flat(self, weights: Weights) -> np.ndarray:
        """The learnt blobs of a caffemodel, or of their gradients, as one array."""
        flat = np.empty(self.size, np.float32)
        for (layer, index), (first, count) in self.places.items():
            blob = np.asarray(weights[layer][index], np.float32).reshape(self.program.params[layer, index].shape)
            flat[first : first + count] = (blob.transpose(0, 2, 3, 1) if blob.ndim == 4 else blob).reshape(-1)
        return flat

    def blobs(self, flat: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The reverse: layer -> its learnt blobs."""
        found: dict[str, list[np.ndarray]] = {}
        for (layer, index), param in sorted(self.program.params.items(), key=lambda item: item[0]):
            first, count = self.places[layer, index]
            part, shape = flat[first : first + count], param.shape
            if len(shape) == 4:
                part = part.reshape(shape[0], shape[2], shape[3], shape[1]).transpose(0, 3, 1, 2)
            found.setdefault(layer, []).append(np.ascontiguousarray(part.reshape(shape)))
        return found

    def statistics(self, weights: Weights) -> tuple[np.ndarray, np.ndarray, float]:
        """The BatchNorm layers' running sums of means and variances, side by side, and their weight."""
        means, variances = (
            np.concatenate([np.asarray(weights[name][i], np.float32).reshape(-1) for name, *_ in self.program.norms])
            for i in (0, 1)
        )
        gathered = {float(np.asarray(weights[name][2]).reshape(-1)[0]) for name, *_ in self.program.norms}
        if len(gathered) > 1:
            raise CaffeSplitError("the BatchNorm layers have gathered unequally long.")
        return means, variances, gathered.pop()

    def statistics_blobs(
        self, means: np.ndarray, variances: np.ndarray, gathered: float
    ) -> dict[str, list[np.ndarray]]:
        """The reverse: layer -> its three blobs."""
        found, first = {}, 0
        for name, _, channels in self.program.norms:
            rows = slice(first, first + channels)
            found[name] = [means[rows].copy(), variances[rows].copy(), np.array([gathered], np.float32)]
            first += channels
        return found

    def window(self, site: Site, leaf: Leaf, weights: Weights) -> np.ndarray:
        """A frozen convolution's kernels (rows, columns of the site), at the pixels that they look at."""
        small = np.asarray(weights[leaf.layer][0], np.float32)
        kernel = np.zeros((len(small), *site.shape[1:]), np.float32)
        top, left = (p - q for p, q in zip(site.pad, leaf.pad))
        kernel[:, :, top : top + small.shape[2], left : left + small.shape[3]] = small
        return kernel.transpose(0, 2, 3, 1).reshape(len(small), -1)
