"""The packages that users install: built, put into clean environments of every Python that is here, and used there.

Slow: it installs from a package index. Pythons are those of PATH, of ~/.pyenv and in CAFFE_SPLIT_PYTHONS (paths, with :
between them). `pytest -m slow tests/test_packages.py -rA` prints the table of docs/install.md line by line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.derivation.odd import convolution, input_layer, write
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
# What each extra brings, in a line that fails without it. PyTorch is left out: it is gigabytes in each environment.
EXTRAS = {
    "hdf5": "import caffe_split as c; c.write_weights('w.h5', {'a': [[1.0]]}); c.read_weights('w.h5')['a']",
    "opencv": "from caffe_split.backends.choose import choose_backend; choose_backend('opencv', deploy_only=True)",
    "digits": "from caffe_split.cli import cli; cli(['data', 'digits', '--out', 'data'], standalone_mode=False)",
    "study": "from caffe_split.study import checks; import yaml, snakemake",
}
# Every command on logs, nets and weights, in a folder with the net `net`, its weights and a log.
COMMANDS = (
    "best train.log",
    "final train.log",
    "table train.log --sort best --snapshot",
    "report train.log --out report.html",
    "summary net.prototxt",
    "draw net.prototxt --out net.svg",
    "draw net.prototxt --out net.png",
    "kernels net.prototxt net.caffemodel --layer a --out a.png",
    "instrument net.prototxt --window 0:10 --out watched.prototxt",
    "make-derived net.prototxt --weights net.caffemodel --layers a --partition random:0",
    "fold derived1/net.prototxt derived1/init.caffemodel --no-verify",
    "tpm net_iter_0.caffemodel net_iter_10.caffemodel net_iter_20.caffemodel --momentum 0.9",
    "completion bash",
    "doctor",
)
USER = """
import caffe_split as cs

value: float = cs.read_log("train.log").best().value
plan: cs.DerivePlan = cs.derive(cs.open_training("net.prototxt"), weights="w", layers=["a"], out="d")
wrong: int = cs.read_log("train.log").best().line_text
cs.summarize(5)
"""


def find_pythons() -> dict[str, Path]:
    """Version -> a Python of it, for those that can make environments."""
    given = [Path(each) for each in os.environ.get("CAFFE_SPLIT_PYTHONS", "").split(":") if each]
    own = sorted(Path.home().glob(".pyenv/versions/*/bin/python"))
    on_path = [Path(found) for version in VERSIONS if (found := shutil.which(f"python{version}"))]
    found: dict[str, Path] = {}
    for python in [*given, *on_path, *own]:
        asked = subprocess.run(
            [python, "-c", "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() in VERSIONS:
            found.setdefault(asked.stdout.strip(), python)
    return found


PYTHONS = find_pythons()


def run(*words: object, cwd: Path) -> str:
    """Run a program without this environment's settings; it must end with 0."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel made of it, from a copy of the files that git knows."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
        if name.split("/")[0] in ("caffe_split", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder to use the program in: a net, weights, snapshots, a log."""
    folder = tmp_path / "work"
    folder.mkdir()
    write(folder, "net", input_layer() + convolution("a", "data", "a"))
    for iteration in (0, 10, 20):
        shutil.copyfile(folder / "net.caffemodel", folder / f"net_iter_{iteration}.caffemodel")
    (folder / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 20')
    shutil.copyfile(ROOT / "tests/trainlog/logs/bvlc_2016.log", folder / "train.log")
    return folder


def environment(python: Path, folder: Path, *wanted: object) -> Path:
    """A clean environment with these packages; the folder of its programs."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted, cwd=folder)
    run(folder / "bin/python", "-m", "pip", "check", cwd=folder)
    return folder / "bin"


def test_what_the_wheel_has(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.check_output(["git", "ls-files", "-z", "caffe_split"], cwd=ROOT, text=True).split("\0")
    assert sorted(filter(None, tracked)) == sorted(name for name in names if name.startswith("caffe_split/"))
    assert sdist.stat().st_size < 2_000_000 and wheel.stat().st_size < 2_000_000


@pytest.mark.parametrize("version", VERSIONS)
def test_the_wheel_in_a_clean_environment(version: str, dist: Path, work: Path, tmp_path: Path) -> None:
    """Without an extra all commands on logs, nets and weights work; each extra brings what it says."""
    if version not in PYTHONS:
        pytest.skip(f"no Python {version} here")
    (wheel,) = dist.glob("*.whl")
    programs = environment(PYTHONS[version], tmp_path / "env", wheel)
    for command in COMMANDS:
        run(programs / "caffe-split", *command.split(), cwd=work)
    run(programs / "plot_loss.py", "train.log", "--no_refresh", "--out", "curves.png", cwd=work)
    works = ["base"]
    for extra, line in EXTRAS.items():
        if extra == "study" and version in ("3.9", "3.10"):
            continue  # setup.py says so: Snakemake 8 is for later ones
        run(
            programs / "python",
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            f"{wheel}[{extra}]",
            cwd=work,
        )
        run(programs / "python", "-c", line, cwd=work)
        works.append(extra)
    print(f"Python {version}: {', '.join(works)}; {run(programs / 'caffe-split', 'doctor', cwd=work)}")
    shutil.rmtree(tmp_path / "env")


def test_the_sdist_installs_and_runs(dist: Path, work: Path, tmp_path: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    programs = environment(Path(sys.executable), tmp_path / "env", sdist)
    run(programs / "caffe-split", "table", "train.log", cwd=work)


def test_types_are_seen_by_a_users_mypy(dist: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (wheel,) = dist.glob("*.whl")
    programs = environment(Path(sys.executable), tmp_path / "env", wheel)
    (tmp_path / "user.py").write_text(USER)
    words = [sys.executable, "-m", "mypy", "--python-executable", programs / "python", "--no-incremental", "user.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2 and errors[0].startswith("user.py:6:") and errors[1].startswith("user.py:7:"), done.stdout
    assert '"summarize" has incompatible type "int"' in errors[1]
