"""Fixtures that all tests share, and the rule for tests that need the built Caffe."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The nets here are tiny: a second thread costs them more than it brings. Set before numpy and PyTorch are loaded.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from caffe_split.backends import choose  # noqa: E402  (below the threads)
from caffe_split.backends.choose import backends, get_backend  # noqa: E402
from tests.support import CAFFE, ROOT, Trained, caffe_split, end_processes, train  # noqa: E402

# Caffe's programs leave thousands of files in the temporary folder: logs, unless these go to standard error, and
# others, which get a folder that goes at the end. Python, and so pytest's tmp_path, keeps the folder that it has found.
os.environ.setdefault("GLOG_logtostderr", "1")
_LITTER = tempfile.mkdtemp(prefix="caffe-split-tests-")
os.chmod(_LITTER, 0o755)  # Tests act as another user, too.
os.environ["TMPDIR"] = _LITTER

# A shell that starts the tests in the background has them ignore SIGINT, and nohup SIGHUP; the programs that tests
# start would inherit that, and not be stopped by what stops them elsewhere.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(_LITTER, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CAFFE.exists():
        return
    for item in items:
        if item.get_closest_marker("caffe"):
            item.add_marker(pytest.mark.skip(reason="no built Caffe beside python: run ./tools/build_caffe"))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Neither by a test that fails."""
    yield
    end_processes()


@pytest.fixture(params=["torch", pytest.param("caffe", marks=pytest.mark.caffe)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a back end that runs and trains any net; a test that asks for it runs with each that is installed.

    Commands and functions use it, too, where they are given none.
    """
    name = str(request.param)
    if not get_backend(name).is_there():
        pytest.skip(get_backend(name).how_to_get)
    monkeypatch.setattr(choose, "REGISTRY", {name: choose.REGISTRY[name], **choose.REGISTRY})
    return name


@pytest.fixture(scope="session")
def any_backend() -> str:
    """The name of the back end that is used if none is asked for."""
    for each in backends():
        if each.is_there():
            return each.name
    pytest.skip("; ".join(each.how_to_get for each in backends()))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, any_backend: str) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(ROOT / "prototxt" / "digits", folder / "digits")
    caffe_split("data", "digits", "--out", "data", cwd=folder)
    solver = folder / "digits/solver.prototxt"
    text = solver.read_text()
    for old, new in (("max_iter: 2000", "max_iter: 100"), ("snapshot: 100", "snapshot: 10")):
        assert old in text
        text = text.replace(old, new)
    solver.write_text(text)
    caffe_split(
        "instrument", "digits/train_val.prototxt", "--window", "0:100", "--interval", 10, "--in-place", cwd=folder
    )
    return Trained(folder, train("digits/solver.prototxt", folder, backend=any_backend))


@pytest.fixture
def digits(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained folder, for one test alone."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return tmp_path / "run"
