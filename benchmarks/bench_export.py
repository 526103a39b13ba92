"""`caffe-split export` beside the converters from PyPI: each net converted by all, and run beside the real Caffe.

    python -m benchmarks.bench_export [NAME...] [--results FOLDER] [--table]

Every net gets random weights of a scale at which its outputs are not saturated. Caffe (or the torch engine, for layers
that Caffe does not have) runs it on a random batch, onnxruntime each model. All converters are given the same deploy
net; ours takes the net as it is written, with its data layers. Each net is one process, each conversion another. The
result of a net is a file in FOLDER: a second run does what is missing there. `--table` writes them into
docs/export.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import export_rivals
from benchmarks.common import Result, report, run
from benchmarks.nets.sources import Source, sources
from caffe_split.backends.choose import choose_backend, get_backend
from caffe_split.backends.protocol import Backend, Forwarding, NetFiles
from caffe_split.exporting.check import random_input
from caffe_split.exporting.make import export, input_shapes
from caffe_split.exporting.opened import open_net
from caffe_split.exporting.options import ExportOptions
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.state import NetState

Arrays = dict[str, np.ndarray]
MOST_SECONDS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", help="of nets; default: all")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "bench_export")
    parser.add_argument("--python", help=f"a Python {export_rivals.PYTHON} for the converters from PyPI")
    parser.add_argument("--without-rivals", action="store_true")
    parser.add_argument("--table", action="store_true", help="write the results into docs/export.md and run nothing")
    parser.add_argument("--job", choices=["net", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    if args.table:
        from benchmarks.export_table import write_table

        write_table(args.results)
    elif args.job == "ours":
        net, weights, out, stages, shapes = args.names
        shaped = {name: tuple(shape) for name, shape in json.loads(shapes).items()}
        options = ExportOptions(state=NetState("TEST", tuple(json.loads(stages)), 0), inputs=shaped)
        report(lambda: export(net, weights, out=out, options=options).write())
    elif args.job == "net":
        found = _compare(args.names[0], sources()[args.names[0]], args.results, not args.without_rivals)
        _file(args.results, args.names[0]).write_text(json.dumps(found, indent=1) + "\n")
    else:
        _all(args)


def _all(args: argparse.Namespace) -> None:
    if not args.without_rivals:
        export_rivals.make_environment(args.results / "rivals", args.python)
    everything = sources()
    for name in args.names or everything:
        if name not in everything:
            raise SystemExit(f"there is no net {name!r}; there are: {', '.join(everything)}")
        if _is_done(_file(args.results, name), not args.without_rivals):
            continue
        command = [sys.executable, "-m", "benchmarks.bench_export", name, "--job", "net", "--results", args.results]
        command += ["--without-rivals"] if args.without_rivals else []
        done = subprocess.run([*map(str, command)], check=False)
        print(f"{name}: " + ("failed" if done.returncode else _file(args.results, name).read_text()), flush=True)


def _file(results: Path, name: str) -> Path:
    return results / f"{name.replace('/', ' ')}.json"


def _is_done(file: Path, with_rivals: bool) -> bool:
    """Whether there is a result, with the other converters where these are wanted."""
    if not file.exists():
        return False
    wanted = {"ours", *(export_rivals.RIVALS if with_rivals else ())}
    found = json.loads(file.read_text())
    return "refused" in found or wanted <= found.keys()


def _compare(name: str, source: Source, results: Path, with_rivals: bool) -> dict[str, Any]:
    """All about one net."""
    folder = Path(tempfile.mkdtemp(dir=results))
    try:
        return _in_folder(folder, source, results / "rivals/bin/python" if with_rivals else None)
    finally:
        shutil.rmtree(folder)


def _in_folder(folder: Path, source: Source, python: Path | None) -> dict[str, Any]:
    # Not above: the process that exports is measured, and needs no PyTorch.
    from benchmarks.nets.weights import write_random_weights

    original, deploy = folder / "net.prototxt", folder / "deploy.prototxt"
    weights, model = folder / "w.caffemodel", folder / "m.onnx"
    original.write_text(source.path.read_text() if source.path else source.text)
    state = NetState("TEST", source.stages, 0)
    opened = open_net(read_net(original, upgrade=True), state, source.inputs)
    for layer in opened.layers:
        # The layers are those of the state already, and the others know no stages.
        layer.message.remove("include")
        layer.message.remove("exclude")
    deploy.write_bytes(opened.document.to_bytes())
    rng = np.random.default_rng(0)
    shapes = input_shapes(opened.layers)
    given = {name: random_input(opened.layers, name, shapes, False, rng) for name in shapes}
    found: dict[str, Any] = {"versions": _versions()}
    write_random_weights(deploy, weights, given)
    found["weights"] = weights.stat().st_size
    command = [sys.executable, "-m", "benchmarks.bench_export", "--job", "ours", original, weights, model]
    command += [json.dumps(source.stages), json.dumps(source.inputs)]
    try:
        made: Result | str = run([*map(str, command)])
    except SystemExit as error:
        return {**found, "refused": str(error).strip().splitlines()[-1]}
    judge = choose_backend()
    if judge.lacking(opened.layers):
        judge = get_backend("torch")
    expected = _expected(judge, deploy, weights, given, folder)
    found |= {"judge": judge.title, "outputs": {name: _spread(values) for name, values in expected.items()}}
    found["ours"] = _judged(made, model, given, expected)
    if python is not None:
        for rival in export_rivals.RIVALS:
            made = export_rivals.convert(python, rival, deploy, weights, model, MOST_SECONDS)
            found[rival] = _judged(made, model, given, expected)
    return found


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("caffe-split", "onnx", "onnxruntime", "torch")}


def _expected(judge: Backend, net: Path, weights: Path, given: Arrays, folder: Path) -> Arrays:
    """What the net gives, by output."""
    inputs = folder / "inputs.npz"
    np.savez(inputs, **given)  # type: ignore[arg-type]
    how = Forwarding(1, NetState("TEST"), 0, inputs, {name: array.shape for name, array in given.items()})
    (done,) = judge.forward([NetFiles(net, weights)], how)
    return {name: np.array(done.batches[0][name]) for name in done.outputs}


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"least": float(values.min()), "most": float(values.max()), "deviation": float(values.std())}


def _judged(made: Result | str, model: Path, given: Arrays, expected: Arrays) -> dict[str, Any]:
    """How a conversion went, and how far its model's outputs lie from the net's. Removes the model."""
    if isinstance(made, str):
        return {"why": made}
    entry: dict[str, Any] = {"seconds": made.seconds, "peak": made.peak}
    try:
        difference = _difference(model, given, expected)
        entry |= {"difference": difference} if isinstance(difference, float) else {"wrong": difference}
    except Exception as error:  # each of onnxruntime's errors is a class of its own
        entry["wrong"] = f"onnxruntime does not run it: {' '.join(str(error).split())}"
    model.unlink()
    return entry


def _difference(model: Path, given: Arrays, expected: Arrays) -> float | str:
    """The largest difference of an output, relative to its largest value; or why there is none.

    Inputs and outputs that have other names than in the net are taken in order, and shapes may differ in axes of
    length 1.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    rest = iter([name for name in given if name not in names])
    fed = {name: given[name if name in given else next(rest)] for name in names}
    outputs = [each.name for each in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, fed)))
    if len(found) != len(expected):
        return f"it has {len(found)} outputs, the net {len(expected)}"
    others = iter([values for name, values in found.items() if name not in expected])
    most = 0.0
    for name, values in expected.items():
        other = np.asarray(found[name] if name in found else next(others), np.float32)
        if [n for n in other.shape if n != 1] != [n for n in values.shape if n != 1]:
            return f"output {name} has shape {other.shape}, the net's {values.shape}"
        apart = np.abs(other.reshape(values.shape).astype(np.float64) - values).max()
        most = float(np.maximum(most, apart / np.abs(values).max()))
    return most


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
