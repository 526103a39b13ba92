"""The front door: every public name is described, its example runs, and it refuses what it cannot use."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caffe_split
from caffe_split import CaffeSplitError
from caffe_split.derivation.command import command_of
from tests.derivation.odd import convolution, input_layer, write
from tests.support import ROOT, Trained

FUNCTIONS = [name for name in caffe_split.__all__ if name[0].islower() and name != "engine"]
# They run a net, in whatever there is to run it.
RUN_NETS = (
    "classify",
    "extract",
    "fold",
    "measure_saliency",
    "multisplit",
    "score_net",
    "time_net",
    "train",
    "verify",
)


@pytest.mark.parametrize("name", [*FUNCTIONS, "CaffeSplitError", "DeriveOptions"])
def test_every_function_has_an_example_that_runs(name: str) -> None:
    if name in RUN_NETS and not any(map(importlib.util.find_spec, ("caffe", "torch"))):
        pytest.skip("neither Caffe nor PyTorch is here")
    public = getattr(caffe_split, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(public, name)
    assert len(example.examples) >= 2
    assert doctest.DocTestRunner().run(example).failed == 0
    assert "CaffeSplitError" in public.__doc__


@pytest.mark.parametrize("name", caffe_split.__all__)
def test_every_public_name_is_described_and_has_one_home(name: str) -> None:
    public = getattr(caffe_split, name)
    assert public.__doc__
    if name == "engine":
        assert public.__name__ == "caffe_split.engine"
        return
    assert getattr(sys.modules[public.__module__], public.__name__) is public and public.__name__ == name


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(caffe_split.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert seen.pop("engine") == "caffe_split"
    assert seen == {name: f"caffe_split.{home}" for name, home in caffe_split._LAZY.items()}  # noqa: SLF001 - its law
    assert set(caffe_split.__all__) == {*seen, "engine", "CaffeSplitError"} <= set(dir(caffe_split))
    assert (ROOT / "caffe_split/py.typed").exists()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'derrive'"):
        caffe_split.derrive  # noqa: B018 - it is the access that raises


def loaded(code: str) -> set[str]:
    """The modules that a new process has imported after `code`."""
    code = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_no_library() -> None:
    assert not loaded("import caffe_split") & {"numpy", "google.protobuf", "h5py", "torch", "click", "matplotlib"}


@pytest.mark.parametrize("command", ["best", "final", "table"])
def test_a_log_command_imports_the_room_of_logs_alone(command: str, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("I1128 10:00:00.000000  7 solver.cpp:1] Iteration 0, Testing net (#0)\n")
    code = f"from caffe_split.cli import cli\ncli([{command!r}, {str(log)!r}], standalone_mode=False)"
    rooms = {name.split(".")[1] for name in loaded(code) if name.startswith("caffe_split.")}
    assert rooms <= {"cli", "errors", "files", "jsontext", "trainlog"}


def test_the_best_lines_are_found_without_numpy(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("I1128 10:00:00.000000  7 solver.cpp:1]     Test net output #0: accuracy = 0.5\n")
    code = f"from caffe_split.cli import cli\ncli(['best', {str(log)!r}], standalone_mode=False)"
    assert "numpy" not in loaded(code)


def test_a_summary_loads_the_libraries_of_data_sets_only_where_one_is(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "d" data_param { source: "none" batch_size: 1 } }'
    )
    code = (
        f"from caffe_split.cli import cli\ncli(['summary', {str(tmp_path / 'net.prototxt')!r}], standalone_mode=False)"
    )
    assert not loaded(code) & {"lmdb", "PIL", "google.protobuf", "plyvel"}


def test_the_version_stands_once() -> None:
    version = re.escape(caffe_split.__version__)
    files = [ROOT / "setup.py", ROOT / "pyproject.toml", *(ROOT / "caffe_split").rglob("*.py")]
    found = [path.name for path in files if re.search(rf"\b{version}\b", path.read_text(encoding="utf-8"))]
    assert found == ["__init__.py"]
    version = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert version.stdout.split()[-1] == caffe_split.__version__


@pytest.fixture
def training(tmp_path: Path) -> caffe_split.Training:
    write(tmp_path, "net", input_layer() + convolution("a", "data", "a"))
    return caffe_split.open_training(tmp_path / "net.prototxt")


REFUSED = {
    "derive wants a Training": (
        lambda training: caffe_split.derive("net.prototxt", 5, out="x"),
        r"expected a Training: open it by caffe_split.open_training\(...\), found str 'net.prototxt'",
    ),
    "measure_tpm wants a Training": (lambda training: caffe_split.measure_tpm(Path("a")), "open_training"),
    "instrument wants a Training": (lambda training: caffe_split.instrument("a", [(0, 9)]), "open_training"),
    "uninstrument wants a Training": (lambda training: caffe_split.uninstrument("a"), "open_training"),
    "open_training wants a path": (caffe_split.open_training, "expected the path of a net or solver, found Training"),
    "read_log wants a path": (caffe_split.read_log, "expected the path of a log, found Training"),
    "read_net wants a path": (caffe_split.read_net, "expected the path of a net, found Training"),
    "read_solver wants a path": (caffe_split.read_solver, "expected the path of a solver, found Training"),
    "read_weights wants a path": (caffe_split.read_weights, "expected the path of weights, found Training"),
    "write_weights wants a path": (
        lambda training: caffe_split.write_weights({}, "w.caffemodel"),
        "expected the path of the weights to write, found dict",
    ),
    "verify wants paths": (lambda training: caffe_split.verify(training, "a"), "expected the path of a net"),
    "fold wants paths": (
        lambda training: caffe_split.fold("a", {}, out="b"),
        "expected the path of weights, found dict",
    ),
    "train wants a path": (caffe_split.train, "expected the path of a solver, found Training"),
    "summarize wants a net": (lambda training: caffe_split.summarize(5), "expected a net: its path, .* found int 5"),
    "options are not a dict": (
        lambda training: caffe_split.derive(training, 5, options={"kind": "skip"}, out="x"),
        r"expected DeriveOptions\(...\) as options, found dict",
    ),
    "layers are not a name": (
        lambda training: caffe_split.derive(training, 5, layers="conv1", out="x"),
        r"layers are a number or a list of names, found 'conv1'; write \['conv1'\]",
    ),
    "an iteration is a number": (
        lambda training: caffe_split.derive(training, "50000", out="x"),
        "expected a whole number as iteration, found str '50000'",
    ),
    "an iteration to measure is a number": (
        lambda training: caffe_split.measure_tpm(training, "9"),
        "expected a whole number as iteration, found str '9'",
    ),
    "no layers by number": (
        lambda training: caffe_split.derive(training, 5, layers=0, out="x"),
        "layers is 0, expected 1",
    ),
    "no snapshot and no weights": (lambda training: caffe_split.derive(training, out="x"), "give either --iter N"),
    "no layers": (lambda training: caffe_split.derive(training, 5, layers=[], out="x"), "--layers names no layer"),
    "weights without TPM": (
        lambda training: caffe_split.derive(training, weights="w.caffemodel", out="x"),
        "--weights alone has no TPM: give --layers",
    ),
    "one window is not a list of them": (
        lambda training: caffe_split.instrument(training, (0, 9)),
        r"windows are pairs \(start, stop\) .* found \(0, 9\)",
    ),
    "a window ends after it starts": (
        lambda training: caffe_split.measure_tpm(training, windows=[(9, 0)]),
        "start < stop",
    ),
    "a kind": (lambda training: caffe_split.DeriveOptions(kind="skipp"), "kind is 'skipp', expected one of residual"),
    "a schedule": (lambda training: caffe_split.DeriveOptions(schedule="on"), "expected one of restart, continue"),
    "noise": (lambda training: caffe_split.DeriveOptions(noise=np.nan), "--noise is not a finite number"),
    "batches": (lambda training: caffe_split.DeriveOptions(branch_norm=True), "branch_norm is True, expected a whole"),
    "a rate": (lambda training: caffe_split.DeriveOptions(added_lr=-1), "added_lr is -1, expected 0 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_door_refuses(case: str, training: caffe_split.Training) -> None:
    call, message = REFUSED[case]
    with pytest.raises(CaffeSplitError, match=message):
        call(training)


def test_the_door_and_the_command_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "net", input_layer() + convolution("a", "data", "a") + convolution("b", "a", "b"))
    options = caffe_split.DeriveOptions(kind="skip", partition="random:3", seed=7, noise=0.02, added_lr=2.0)
    training = caffe_split.open_training("net.prototxt")
    plan = caffe_split.derive(training, weights="net.caffemodel", layers=["a", "b"], options=options, out="ours")
    assert not (tmp_path / "ours").exists()
    plan.write()
    words = "net.prototxt --weights net.caffemodel --layers a,b --kind skip --partition random:3 --seed 7 --noise 0.02"
    subprocess.run(
        [sys.executable, "-m", "caffe_split", "make-derived", *words.split(), "--added-lr", "2", "--out", "theirs"],
        check=True,
        capture_output=True,
    )
    for name in ("net.prototxt", "init.caffemodel"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    with pytest.raises(CaffeSplitError, match="ours exists; nothing is overwritten unasked"):
        plan.write()
    plan.write(force=True)


def test_a_plan_names_the_command_that_makes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "net", input_layer() + convolution("a", "data", "a") + convolution("b", "a", "b"))
    options = caffe_split.DeriveOptions("extension", "study", 0.5, 3, partition="list:1,2", added_lr=0.5)
    training = caffe_split.open_training("net.prototxt")
    plan = caffe_split.derive(training, weights="net.caffemodel", layers=["b"], options=options, out="derived")
    plan.write()
    before = {path.name: path.read_bytes() for path in (tmp_path / "derived").iterdir()}
    assert json.loads(before["manifest.json"])["command"] == list(plan.command)
    subprocess.run([sys.executable, "-m", "caffe_split", *plan.command[1:], "--force"], check=True, capture_output=True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "derived").iterdir()}
    plans = [json.loads(files.pop("manifest.json")) for files in (before, after)]
    assert before == after and plans[0]["plan"] == plans[1]["plan"]


def test_tpm_that_was_measured_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It chooses the layer and its halves; of two windows the one that ends last."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "net", input_layer() + convolution("a", "data", "a") + convolution("b", "a", "b"))
    weights = caffe_split.read_weights("net.caffemodel")
    one = np.ones(len(weights["a"][0]))
    mixed = np.where(np.arange(len(one)) % 2, 0.1, 0.9)
    moved = {("a", 0, 10): mixed, ("b", 0, 10): one, ("a", 10, 20): one, ("b", 10, 20): mixed}
    scores = [
        caffe_split.LayerScores(name, start, stop, 1, 10, weights[name][0].shape, tpm, one, 0.5, 1.0, 1.0, 1.0)
        for (name, start, stop), tpm in moved.items()
    ]
    training = caffe_split.open_training("net.prototxt")
    plan = caffe_split.derive(training, weights="net.caffemodel", scores=scores, layers=1, out="derived")
    assert [layer.name for layer in plan.layers] == ["b"]
    assert plan.layers[0].partition.fast == tuple(range(0, len(one), 2))
    plan.write()
    # No command makes it again: the manifest names what ran.
    assert plan.command == ()
    assert json.loads(Path("derived/manifest.json").read_text())["command"] == [Path(sys.argv[0]).name, *sys.argv[1:]]
    with pytest.raises(CaffeSplitError, match="expected LayerScores in scores"):
        caffe_split.derive(training, weights="net.caffemodel", scores=[0.5], layers=1, out="other")


def test_every_option_is_in_the_command(training: caffe_split.Training) -> None:
    """An option that is not its default, each by itself, makes a command that differs."""
    others = {
        "kind": "skip",
        "init": "study",
        "noise": 0.5,
        "seed": 3,
        "activation": "relu",
        "skip_pool": "average",
        "branch_norm": 5,
        "added_lr": 2.0,
        "partition": "otsu",
        "choose_by": "snip",
        "calibrate": 7,
        "schedule": "continue",
        "window": (0, 9),
        "engine": "torch",
        "ignore_extra_weights": True,
    }
    assert set(others) == set(caffe_split.DeriveOptions.__dataclass_fields__)
    fixed = {"iteration": 5, "weights": Path("w"), "layers": 1, "out": Path("o"), "deploy": None}
    plain = command_of(training, caffe_split.DeriveOptions(), **fixed)
    for name, value in others.items():
        assert command_of(training, caffe_split.DeriveOptions(**{name: value}), **fixed) != plain, name


def test_scores_and_plan_of_a_trained_net(trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last snapshot where none is named; as many layers as asked for, those of highest entropy."""
    monkeypatch.chdir(trained.folder)
    training = caffe_split.open_training(trained.solver)
    scores = caffe_split.measure_tpm(training)
    assert [s.stop for s in scores] == [s.stop for s in caffe_split.measure_tpm(training, 100)] == [100] * 9
    plan = caffe_split.derive(training, 100, layers=3, out=tmp_path / "derived")
    highest = sorted(scores, key=lambda score: -score.entropy)[:3]
    assert {layer.name for layer in plan.layers} == {score.layer for score in highest}
    assert str(plan).splitlines() == plan.lines()


def test_a_log_as_a_table_and_its_best() -> None:
    pandas = pytest.importorskip("pandas")
    log = caffe_split.read_log(ROOT / "tests/trainlog/logs/bvlc_2016.log")
    frame = log.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame["accuracy"].max() == log.best().value
    assert frame["accuracy"].iloc[-1] == log.final().value
    with pytest.raises(CaffeSplitError, match="no test output named acuracy; it has: accuracy"):
        log.best("acuracy")


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: ./tools/environment --torch"
)
def test_the_engines_net_runs(training: caffe_split.Training) -> None:
    net = caffe_split.engine.Net(training.net, "TEST")
    out = net.forward({"data": np.zeros((2, 4, 8, 8), np.float32)}, keep=True)
    assert out.blobs["a"].shape == (2, 6, 8, 8)
    assert caffe_split.engine.Solver.__name__ == "Solver"
