"""What trainings on a device share: how they compute, the images, what is drawn for every batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# As the recipe's transform_param has them.
MEAN, SCALE, SIDE, PAD = (125.3, 123.0, 113.9), 0.015625, 32, 4
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
WAYS = "fp32, tf32 or bf16; these with -plain for PyTorch's kernels alone; bf16-convs for our convolutions, too"


@dataclass(frozen=True)
class Way:
    """How steps are computed: in which precision images and what becomes of them are, and by whose kernels.

    convs: choices among our own convolutions, by (channels in, channels out, height); None: cuDNN's alone. Weights,
    their momentum, the sums of BatchNorm and losses are float32 in every way.
    """

    name: str
    device: torch.device
    convs: Mapping[tuple[int, int, int], Any] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name.split("-")[0]]

    @property
    def own_kernels(self) -> bool:
        """Whether our own kernels (Triton) make batches, run BatchNorm and update."""
        return not self.name.endswith("-plain")

    @property
    def channels(self) -> int:
        """Of an image that convolutions read: tensor cores read eight at a time."""
        return 8 if self.own_kernels else 3


@dataclass
class Data:
    """Training images uint8 (N, side, side, 3) with their border, test images as nets read them, int64 labels; all on
    the device."""

    images: torch.Tensor
    labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def of(cls, way: Way, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Data:
        """From (uint8 (N, 32, 32, 3), labels) each; the training images gain a border of zeros, as the recipe's do."""
        images = np.pad(train[0], ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
        mean = torch.tensor(MEAN, device=way.device)
        tests = (torch.as_tensor(np.array(test[0])).to(way.device).float() - mean) * SCALE
        shown = torch.zeros(*tests.shape[:3], way.channels, device=way.device, dtype=way.dtype)
        shown[..., :3] = tests
        return cls(
            torch.as_tensor(images).to(way.device),
            torch.as_tensor(np.array(train[1])).to(way.device, torch.int64),
            shown,
            torch.as_tensor(np.array(test[1])).to(way.device, torch.int64),
        )


def draws_of(seed: int, steps: int, batch: int) -> np.ndarray:
    """uint8 (steps, batch, 3): row, column, and whether mirrored, of each image; the same in all arms of a seed."""
    generator = np.random.default_rng([seed, 7])
    return generator.integers(0, [2 * PAD + 1, 2 * PAD + 1, 2], size=(steps, batch, 3), dtype=np.uint8)
