"""A trained net's accuracy on all test images by the project's own engine, in fp32, unfolded and folded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

import gpu_study_parts.split as nets
from gpu_study_parts.start import with_inputs

MEAN, SCALE = np.array([125.3, 123.0, 113.9], np.float32), np.float32(0.015625)


def predictions(net: Path, weights: Path, images: np.ndarray, device: str, batch: int) -> np.ndarray:
    """The class of each of the uint8 (N, 32, 32, 3) images, TEST phase, fp32."""
    import torch

    from caffe_split import read_weights
    from caffe_split.engine import Net
    from caffe_split.net.layers import all_layers

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    batch = min(batch, len(images))
    document = with_inputs(net, batch)
    for layer in all_layers(document):
        if layer.type in ("SoftmaxWithLoss", "Accuracy"):
            document.remove(layer.field)
    runner = Net(document, "TEST", device=device)
    runner.load(read_weights(weights), str(weights))
    found = []
    with torch.no_grad():
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            whole = np.concatenate([part, images[: batch - len(part)]]) if len(part) < batch else part
            shown = np.ascontiguousarray(((whole.astype(np.float32) - MEAN) * SCALE).transpose(0, 3, 1, 2))
            scores = runner.forward({"data": shown, "label": np.zeros(batch, np.float32)}).blobs["fc"]
            found.append(scores.argmax(1)[: len(part)].cpu().numpy())
    return np.concatenate(found)


def check(folder: str, iteration: int, blobs: nets.Blobs, tests: str, device: str) -> dict[str, Any]:
    """Fold the net in `folder` with its last weights, and test both nets; `tests` is an .npz with images and labels."""
    folded = nets.fold(folder, iteration, blobs)
    with np.load(tests) as stored:
        images, labels = stored["images"], stored["labels"]
    classes = [predictions(Path(net), Path(weights), images, device, 500) for net, weights in folded["pairs"]]
    right = [int((found == labels).sum()) for found in classes]
    return {
        "final": right[0] / len(labels),
        "folded": right[-1] / len(labels),
        "differ": int((classes[0] != classes[-1]).sum()),
        "images": len(labels),
        "cost": nets.cost_of(Path(folder) / nets.NET),
        "folded_cost": folded["cost"],
        "kept": folded["kept"],
    }


def warm(device: str) -> None:
    """Import what a test needs, and start the device."""
    import torch

    import caffe_split.engine.model.net  # noqa: F401

    torch.zeros(1, device=device)


def set_up(folder: str) -> None:
    """Of a process that does such work: it stands in the study's folder."""
    os.chdir(folder)
