"""What watching costs: ResNet-20, batch 128, all 19 convolutions watched at interval 1, beside the same net unwatched.

    python -m benchmarks.bench_tpm [--rounds 5] [--gpu 0]

On the CPU processor time is measured, with one BLAS thread, so that a busy machine disturbs little. The difference of
two iterations of a second is lost in their spread; so what the layers add is timed by itself, in turns with whole
iterations: their forwards, and the longer time of the solver's update and of clearing the gradients. The ratio of whole
iterations is printed too, with its spread. On a GPU, which works while the host goes on, there is only the ratio of
whole iterations, by the clock, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NET = ROOT / "prototxt/resnet20_cifar100/train_val.prototxt"
# Images of one colour: the data make no difference to the time, and no data set is needed.
DATA = """layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: {batch} dim: 3 dim: 32 dim: 32 }} shape {{ dim: {batch} }}
  data_filler {{ type: "constant" value: 0.5 }} data_filler {{ type: "constant" value: 3 }} }} }}
"""
SOLVER = """net: "{net}" base_lr: 0.1 momentum: 0.9 weight_decay: 0.0001 lr_policy: "fixed" max_iter: 1000000
solver_mode: {mode} display: 0 random_seed: 1
"""


def prepare(folder: Path, batch: int, mode: str) -> int:
    """Write the net and its watched copy, with their solvers; returns how many layers are watched."""
    from caffe_split.formats import prototxt
    from caffe_split.net.layers import all_layers
    from caffe_split.net.training import open_training
    from caffe_split.tpm.attach import instrument_training

    document = prototxt.read(NET)
    for layer in all_layers(document):
        if layer.type == "Data":
            document.remove(layer.field)
    (folder / "plain.prototxt").write_text(DATA.format(batch=batch) + str(document))
    training = open_training(folder / "plain.prototxt")
    cost = instrument_training(training, [(0, 1_000_000)], 1, None)
    (folder / "watched.prototxt").write_text(str(training.net))
    for name in ("plain", "watched"):
        (folder / f"{name}_solver.prototxt").write_text(SOLVER.format(net=folder / f"{name}.prototxt", mode=mode))
    return len(cost.layers)


def measure(folder: Path, rounds: int, gpu: int | None) -> None:
    """In a process of its own: print one JSON object of seconds, lists with one value per round."""
    import caffe

    if gpu is not None:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()
    solvers = {name: caffe.SGDSolver(str(folder / f"{name}_solver.prototxt")) for name in ("plain", "watched")}
    seconds: dict[str, list[float]] = {f"{name} {what}": [] for name in solvers for what in ("step", "update")}
    seconds["forwards"] = []
    net = solvers["watched"].net
    places = [i for i, name in enumerate(net.layer_dict) if name.endswith("_tpm")]
    clock = time.perf_counter if gpu is not None else time.process_time

    def timed(work: Callable[[], object], repeats: int) -> float:
        work()
        start = clock()
        for _ in range(repeats):
            work()
        return (clock() - start) / repeats

    def update(solver: Any) -> None:
        solver.apply_update()
        solver.net.clear_param_diffs()

    def forwards() -> None:
        for place in places:
            net._forward(place, place)  # noqa: SLF001, net.forward would add the time of its own Python code

    for solver in solvers.values():
        solver.step(1)  # allocates
    for index in range(rounds):
        for name, solver in sorted(solvers.items(), reverse=bool(index % 2)):
            if gpu is None:
                start = clock()
                solver.step(1)
                seconds[f"{name} step"].append(clock() - start)
                seconds[f"{name} update"].append(timed(lambda s=solver: update(s), 20))
            else:
                start = clock()
                solver.step(50)
                solver.net.blobs["loss"].data  # noqa: B018, waits for the device
                seconds[f"{name} step"].append((clock() - start) / 50)
        if gpu is None:
            seconds["forwards"].append(timed(forwards, 50))
    # The layers did sample while they were timed.
    assert net.params["conv1_tpm"][4].data[1, 0] > 50 * rounds
    print(json.dumps(seconds))


def main(arguments: list[str] | None = None) -> float:
    """Returns the share of an iteration that watching takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--gpu", type=int, help="the device to measure on; needs a Caffe built with CUDA")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        measure(Path(options.measure), options.rounds, options.gpu)
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        count = prepare(Path(folder), options.batch, "CPU" if options.gpu is None else "GPU")
        command = [sys.executable, "-m", "benchmarks.bench_tpm", "--rounds", str(options.rounds), "--measure", folder]
        command += [] if options.gpu is None else ["--gpu", str(options.gpu)]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    middle = {name: statistics.median(values) for name, values in seconds.items() if values}
    ratios = [b / a for a, b in zip(seconds["plain step"], seconds["watched step"])]
    where = "by the clock, on the GPU" if options.gpu is not None else "processor time"
    print(f"ResNet-20, batch {options.batch}, {count} convolutions watched at interval 1 ({where}, medians)")
    print(f"  iteration, not watched          {middle['plain step'] * 1e3:10.3f} ms")
    print(f"  iteration, watched              {middle['watched step'] * 1e3:10.3f} ms")
    spread = f"({min(ratios):.4f} to {max(ratios):.4f})"
    print(f"  ratio of whole iterations       {statistics.median(ratios):10.4f}    {spread}")
    if options.gpu is not None:
        share = statistics.median(ratios) - 1
    else:
        update = middle["watched update"] - middle["plain update"]
        share = (middle["forwards"] + update) / middle["plain step"]
        print(f"  the {count} layers' forwards         {middle['forwards'] * 1e3:10.3f} ms")
        print(f"  the solver's update, more       {update * 1e3:10.3f} ms")
    print(f"  watching takes                  {100 * share:10.3f} % of an iteration")
    return share


if __name__ == "__main__":
    main()
