"""The registry: which back end serves, what is said where none does, and what it takes to add one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from caffe_split.backends import choose
from caffe_split.backends.choose import backends, choose_backend, get_backend
from caffe_split.backends.protocol import Backend, Forwarding, NetFiles
from caffe_split.backends.verify import VerifyOptions, verify
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.state import TRAIN
from tests.support import ROOT, caffe_split

# The command line with one more line in the registry, for several commands in a row; what each printed and its status.
WITH_ECHO = """
import contextlib, io, json, sys
from caffe_split.backends.choose import REGISTRY
REGISTRY["echo"] = "tests.backends.echo:Echo"
from caffe_split.cli import main
said = []
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = [*words, "--engine", "echo"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as end:
            said.append((text.getvalue(), end.code))
print(json.dumps(said))
"""


def there(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(Backend, "is_there", lambda self: self.name in names)


def test_the_most_preferred_back_end_that_is_installed_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ("caffe", "torch", "opencv")
    for installed in (everything, ("torch", "opencv"), ("opencv",)):
        there(monkeypatch, *installed)
        assert choose_backend(deploy_only=True).name == installed[0]
    with pytest.raises(CaffeSplitError, match=r"build Caffe with ./tools/build_caffe, or install PyTorch with"):
        choose_backend()
    there(monkeypatch)
    with pytest.raises(CaffeSplitError, match=r"Deploy nets also run in OpenCV: pip install 'opencv-python-headless"):
        choose_backend(deploy_only=True)


def test_a_back_end_that_is_not_installed_names_itself_and_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, "torch")
    with pytest.raises(CaffeSplitError, match=r"pycaffe is not in this .*build_caffe, or give --engine torch\.$"):
        choose_backend("caffe")
    with pytest.raises(CaffeSplitError, match=r"OpenCV is not in .*: pip install .*, or give --engine torch\.$"):
        choose_backend("opencv")
    with pytest.raises(CaffeSplitError, match=r"no engine 'cafe'; expected one of caffe, torch, opencv"):
        choose_backend("cafe")


def test_opencv_without_a_reader_of_caffe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, "opencv")
    newer = ModuleType("cv2")
    newer.__version__, newer.dnn = "5.0.0", ModuleType("cv2.dnn")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv2", newer)
    said = r"OpenCV 5\.0\.0 does not read Caffe's nets any more: pip install 'opencv-python-headless<5'"
    with pytest.raises(CaffeSplitError, match=said):
        choose_backend("opencv")
    # Chosen because nothing else is installed, it says so when it is to run a net.
    with pytest.raises(CaffeSplitError, match=said):
        choose_backend(deploy_only=True).forward([], Forwarding())


def test_what_only_runs_deploy_nets_refuses_data_and_training() -> None:
    limited = [each for each in backends(deploy_only=True) if each.deploy_only]
    assert [each.name for each in limited] == ["opencv"]
    with pytest.raises(CaffeSplitError, match="OpenCV runs deploy nets only; it measures no training data"):
        limited[0].channel_statistics(NetFiles(Path("net"), Path("weights")), ["x"], 1, TRAIN)
    with pytest.raises(CaffeSplitError, match="OpenCV runs the TEST phase only"):
        limited[0].forward([], Forwarding(state=TRAIN))


def test_no_back_end_is_loaded_by_asking_which_there_are() -> None:
    program = (
        "import sys; from caffe_split.backends.choose import names; print(names(deploy_only=True)); "
        "print({'torch', 'cv2', 'caffe', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["['caffe', 'torch', 'opencv']", "set()"]


def test_a_fourth_back_end_is_one_module_and_one_line(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It verifies, measures, folds and trains, through every command, and nothing else has to know its name."""
    pytest.importorskip("torch")

    nets = ("digits/train_val.prototxt", "derived1/train_val.prototxt")
    short = prototxt.read(digits / "digits/solver.prototxt")
    short.set("max_iter", 2)
    prototxt.write(short, digits / "digits/short.prototxt")
    commands = [
        [
            "make-derived",
            "digits/solver.prototxt",
            "--iter",
            "100",
            "--layers",
            "conv1",
            "--branch-norm",
            "--calibrate",
            "2",
        ],
        ["verify", *nets],
        ["fold", nets[1], "derived1/init.caffemodel"],
        ["train", "digits/short.prototxt", "--seed", "1"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITH_ECHO, json.dumps(commands)],
        cwd=digits,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [status for _, status in found] == [0, 0, 0, 0], found
    derived, verified, folded, trained = (text for text, _ in found)
    assert "run in the echo" in derived and "run in the echo" in folded and "same function" in verified
    assert "engine echo: " in trained and "done; the log is digits/train.log" in trained
    with pytest.raises(AssertionError, match="'echo' is not one of"):
        caffe_split("verify", *nets, "--engine", "echo", cwd=digits)

    monkeypatch.setitem(choose.REGISTRY, "echo", "tests.backends.echo:Echo")
    monkeypatch.chdir(digits)
    echo, torch = (verify(*map(Path, nets), options=VerifyOptions(engine=name)) for name in ("echo", "torch"))
    assert echo.rows == torch.rows
    assert echo.engine == "echo"
    assert get_backend("echo").title == "the echo"
    manifest = json.loads((digits / "derived1/manifest.json").read_text())
    assert manifest["plan"]["engine"] == "echo"
