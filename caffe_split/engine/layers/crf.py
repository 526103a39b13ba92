"""CRF-RNN's layer (Zheng et al., Conditional Random Fields as Recurrent Neural Networks)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.lattice import Lattice


class MultiStageMeanfield(Layer):
    """Scores of the first bottom after num_iterations steps that begin from the second one.

    In each step the probabilities of the classes are filtered by two Gaussians: over places, of the deviation
    theta_gamma; and over places, theta_alpha, and colours of the third bottom, theta_beta. A filter's result is divided
    by that of ones. The first two blobs mix the classes of each filter, the third their sum; that is taken from the
    first bottom. The filters are those of a permutohedral lattice.
    """

    options_name = "multi_stage_meanfield_param"
    # Sizes of the lattice depend on the images.
    eager = True

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape, *_ = self.inferred(bottoms).params
        classes = torch.eye(shape[2]).view(shape)
        names = ("spatial_filter_weight", "bilateral_filter_weight")
        # Older nets do not say what the weights begin with; their code reads them from a file.
        weights = [float(self.options.get(name)) if self.options.has(name) else 0.0 for name in names]
        self.blobs = [*(classes * weight for weight in weights), -classes]
        self.spatial: Lattice | None = None

    @override
    def refit(self, bottoms: Sequence[Shape]) -> None:
        super().refit(bottoms)
        self.spatial = None

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        scores, start, images = bottoms[0], bottoms[1], bottoms[2].detach()
        alpha, beta, gamma = (float(self.options.get(f"theta_{name}")) for name in ("alpha", "beta", "gamma"))
        places = self._places(images)
        if self.spatial is None or self.spatial.corners.device != scores.device:
            self.spatial = Lattice(places / gamma)
        tops = []
        for score, first, image in zip(scores, start, images):
            colours = image.flatten(1).t().double() / beta
            lattices = [self.spatial, Lattice(torch.cat([places / alpha, colours], 1))]
            tops.append(self._steps(score.flatten(1), first.flatten(1), lattices).view(score.shape))
        return (torch.stack(tops),)

    def _places(self, images: torch.Tensor) -> torch.Tensor:
        """Column and row of each pixel, (pixels, 2)."""
        rows, columns = (torch.arange(side, device=images.device, dtype=torch.float64) for side in images.shape[2:])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack([x.reshape(-1), y.reshape(-1)], 1)

    def _steps(self, score: torch.Tensor, found: torch.Tensor, lattices: Sequence[Lattice]) -> torch.Tensor:
        """The scores (classes, pixels) of one image after all steps."""
        *mixing, pairs = (blob[0, 0] for blob in self.blobs)
        ones = [lattice.filtered(torch.ones_like(score[:1])) for lattice in lattices]
        for _ in range(int(self.options.get("num_iterations"))):
            likely = found.softmax(0)
            passed = [
                weight @ (lattice.filtered(likely) / (one + 1e-20))
                for weight, lattice, one in zip(mixing, lattices, ones)
            ]
            found = score - pairs @ (passed[0] + passed[1])
        return found
