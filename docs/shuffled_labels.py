"""The example of docs/tpm.md: the digits net trained on true labels and on shuffled ones, watched from start to end.

    .venv/bin/python docs/shuffled_labels.py FOLDER [--picture FILE]

FOLDER is made and gets the data, both trainings and their logs; it takes about a minute. Run it from anywhere; it ends
with status 1 if shuffled labels do not give the lower TPM late in training, in every layer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from caffe_split.data.digits import write_digits
from caffe_split.data.store import read_store, write_store
from caffe_split.net.training import open_training
from caffe_split.plot.picture_file import write_picture
from caffe_split.plot.tpm_figure import draw_runs
from caffe_split.tpm.collect import measure_tpm
from caffe_split.tpm.scores import by_window

DIGITS = Path(__file__).resolve().parents[1] / "prototxt/digits"
PROGRAMS = Path(sys.executable).parent
LABELS = ("true", "shuffled")
LENGTH, END, INTERVAL, MOMENTUM = 200, 2000, 2, 0.9


def prepare(folder: Path) -> None:
    """The data twice, the second time with the training labels dealt out anew; a net and solver for each."""
    write_digits(folder / "data")
    samples = list(read_store(folder / "data/digits_train_lmdb"))
    order = np.random.default_rng(0).permutation(len(samples))
    shuffled = [(image, samples[other][1]) for (image, _), other in zip(samples, order)]
    write_store(folder / "data/shuffled_train_lmdb", shuffled)
    windows = [word for start in range(0, END, LENGTH) for word in ("--window", f"{start}:{start + LENGTH}")]
    for labels in LABELS:
        (folder / labels).mkdir()
        net = (DIGITS / "train_val.prototxt").read_text()
        solver = (DIGITS / "solver.prototxt").read_text().replace('"digits/', f'"{labels}/')
        if labels == "shuffled":
            net = net.replace("digits_train_lmdb", "shuffled_train_lmdb")
        (folder / labels / "train_val.prototxt").write_text(net)
        (folder / labels / "solver.prototxt").write_text(solver.replace("snapshot: 100", f"snapshot: {END}"))
        subprocess.run(
            [
                PROGRAMS / "caffe-split",
                "instrument",
                f"{labels}/train_val.prototxt",
                *windows,
                "--interval",
                str(INTERVAL),
                "--in-place",
            ],
            cwd=folder,
            check=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--picture", type=Path, help="PNG, SVG or PDF to write")
    options = parser.parse_args()
    folder = options.folder.resolve()
    picture = options.picture.resolve() if options.picture else None
    folder.mkdir()
    prepare(folder)
    os.chdir(folder)
    runs = {}
    for labels in LABELS:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        with open(f"{labels}/train.log", "wb") as log:
            command = [PROGRAMS / "caffe", "train", "-solver", f"{labels}/solver.prototxt"]
            subprocess.run(command, stderr=log, env=environment, check=True)
        runs[f"{labels} labels"] = by_window(measure_tpm(open_training(f"{labels}/solver.prototxt"), END))
    print("iterations   TPM, mean of the layers: true labels, shuffled labels")
    for pair in zip(*runs.values()):
        means = [np.mean([score.layer_tpm for score in group]) for group in pair]
        print(f"{pair[0][0].start:5}:{pair[0][0].stop:<5}  " + "  ".join(f"{mean:.3f}" for mean in means))
    print(f"in {END - LENGTH}:{END}")
    last = list(zip(*(windows[-1] for windows in runs.values())))
    for one, other in last:
        print(f"  {one.layer:12} {one.layer_tpm:.3f}  {other.layer_tpm:.3f}")
    if picture is not None:
        write_picture(picture, lambda figure: draw_runs(figure, runs, MOMENTUM), force=True)
    lower = all(other.layer_tpm < one.layer_tpm for one, other in last)
    print("lower with shuffled labels in every layer" if lower else "not lower with shuffled labels in every layer")
    return 0 if lower else 1


if __name__ == "__main__":
    sys.exit(main())
