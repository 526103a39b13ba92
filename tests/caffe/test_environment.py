"""tools/environment: what it installs, what it leaves alone, and what it says where it may not."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import stub

ROOT = Path(__file__).resolve().parents[2]
built = pytest.mark.skipif(not (Path(sys.prefix) / "bin/caffe").exists(), reason="run ./tools/build_caffe first")


def run_environment(path, *prefix, script=ROOT / "tools" / "environment", words=(), **env):
    return subprocess.run(
        [*prefix, script, *words],
        env={"PATH": f"{path}:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
    )


@built
def test_environment_that_is_ready_is_left_alone(tmp_path):
    run = run_environment(tmp_path, PYTHONPATH="/nowhere", PYTHONHOME="/nowhere", VIRTUAL_ENV="/nowhere")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_new_environment_keeps_how_caffe_was_built(tmp_path):
    """Of an old .venv, made in another place, two files and nothing else. No index: it ends where packages come in."""
    for name in ("tools/environment", "setup.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    kept = tmp_path / ".venv/share/caffe-split"
    kept.mkdir(parents=True)
    (tmp_path / ".venv/lib/old").mkdir(parents=True)
    (tmp_path / ".venv/lib/old/link").symlink_to(ROOT)
    for name in ("build-flags", "build-source", "build-key"):
        (kept / name).write_text(f"{name}\n")
    env = {**os.environ, "PIP_NO_INDEX": "1"}
    done = subprocess.run([tmp_path / "tools/environment", "--no-caffe"], env=env, capture_output=True, text=True)
    assert "making .venv" in done.stdout and "pip install failed" in done.stderr
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        name: f"{name}\n" for name in ("build-flags", "build-source")
    }
    assert not (tmp_path / ".venv/lib/old").exists() and (tmp_path / ".venv/bin/python").exists()
    assert (ROOT / "tools/environment").exists()


@built
def test_an_environment_of_another_checkout_is_not_emptied(tmp_path):
    for name in ("tools/environment", "setup.py", "pyproject.toml"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "here" / name)
    (tmp_path / "other/.venv").mkdir(parents=True)
    (tmp_path / "other/.venv/kept").touch()
    (tmp_path / "here/.venv").symlink_to(tmp_path / "other/.venv")
    run = run_environment(tmp_path, script=tmp_path / "here/tools/environment")
    assert run.returncode == 1 and f".venv is a link to {tmp_path}/other/.venv" in run.stderr
    assert (tmp_path / "other/.venv/kept").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_another_apt_at_work_is_waited_for(tmp_path):
    stub(tmp_path, "dpkg-query", "exit 1")
    stub(
        tmp_path,
        "apt-get",
        f'echo "$3" >>{tmp_path}/calls; case "$3$(wc -l <{tmp_path}/calls)" in\n'
        'update1) echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt)"; exit 100 ;;\n'
        "install*) exit 1 ;; esac",
    )
    run = run_environment(tmp_path)
    assert (tmp_path / "calls").read_text().split() == ["update", "update", "install"]
    assert "apt-get install failed" in run.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_missing_packages_are_installed_by_root(tmp_path):
    stub(tmp_path, "dpkg-query", "echo 'installed cmake'; exit 1")
    stub(tmp_path, "apt-get", f'echo "$DEBIAN_FRONTEND $*" >>{tmp_path}/calls; exec test "$3" = update')
    run = run_environment(tmp_path)
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update == "noninteractive -o DPkg::Lock::Timeout=600 update"
    assert "install -y --no-install-recommends" in install
    assert " liblmdb-dev" in install and " cmake" not in install
    assert run.returncode == 1
    assert run.stderr.strip() == "tools/environment: apt-get install failed; its last lines are above"


def test_missing_packages_are_listed_in_one_line_without_root():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        stub(path, "dpkg-query", "exit 1")
        stub(path, "sudo", "exit 1")
        # Another user may not see into the folder of this checkout.
        (path / "checkout" / "tools").mkdir(parents=True)
        script = Path(shutil.copy(ROOT / "tools" / "environment", path / "checkout" / "tools"))
        nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        run = run_environment(path, *nobody, script=script)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    packages = "apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 "
    assert line.startswith(f"tools/environment: needs root for: {packages}")


@built
@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_what_the_tests_look_through_is_wanted_and_not_needed(tmp_path):
    stub(tmp_path, "dpkg-query", '/usr/bin/dpkg-query "$@" | grep -v -e chromium -e xvfb')
    stub(tmp_path, "apt-get", f'echo "$*" >>{tmp_path}/calls; exit 1')
    run = run_environment(tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "") and not (tmp_path / "calls").exists()
    run = run_environment(tmp_path, words=["--tests"])
    assert run.returncode == 0 and run.stderr == ""
    assert "without chromium xvfb: the tests that need them will be skipped" in run.stdout
    update, *installs = (tmp_path / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert [line.split()[-1] for line in installs] == ["chromium", "xvfb"]


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_flags_of_the_environment_go_together(tmp_path):
    """With false programs: which of our extras are installed, when PyTorch is, and that Caffe's packages are not."""
    checkout = tmp_path / "checkout"
    (checkout / "tools").mkdir(parents=True)
    script = Path(shutil.copy(ROOT / "tools" / "environment", checkout / "tools"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    version = subprocess.check_output(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    ).strip()
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "pip").write_text(f"#!{binaries}/python\n")
    calls = tmp_path / "calls"
    stub(
        binaries,
        "python",
        f'case "$*" in *sys.prefix*) echo "{checkout}/.venv {version}" ;; '
        f'*find_spec*) grep -q torch {calls} ;; *pip.__version__*) exit "${{OLD_PIP-0}}" ;; '
        f'*) echo "$*" >>{calls} ;; esac',
    )
    stub(tmp_path, "apt-get", f'echo "apt-get $*" >>{calls}; exit 1')
    screens = "python3-tk | xvfb | chromium"
    stub(tmp_path, "dpkg-query", f'for word; do case $word in {screens}) echo "installed $word" ;; esac; done')

    def run(*words, **env):
        calls.write_text("")
        done = run_environment(tmp_path, script=script, words=words, **env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return [re.search(r"\S+$", line)[0].replace(str(checkout), "") for line in calls.read_text().splitlines()]

    assert run("--no-caffe") == ["[digits,hdf5]"]
    assert run("--no-caffe") == []
    pytorch = "2.8.0" if version == "3.9" else "2.13.0"
    assert run("--no-caffe", "--torch", "--tests") == ["[test]", f"torch=={pytorch}+cpu"]
    assert run("--no-caffe") == run("--no-caffe", "--tests") == []
    with (checkout / "setup.py").open("a") as stream:
        stream.write("# changed\n")
    assert run("--no-caffe") == ["[test]"]
    with (checkout / "setup.py").open("a") as stream:
        stream.write("# changed again\n")
    assert run("--no-caffe", OLD_PIP="1") == ["pip", "[test]"]
    stub(tmp_path, "dpkg-query", "exit 1")
    assert run_environment(tmp_path, script=script, words=["--caffe"]).returncode == 2
    done = run_environment(tmp_path, script=script)
    assert done.returncode == 1 and "apt-get update failed" in done.stderr


def test_packages_are_listed_wherever_their_flag_stands(tmp_path):
    def listed(*words):
        done = run_environment(tmp_path, words=words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.split()

    plain = listed("--packages")
    assert {"cmake", "liblmdb-dev"} <= set(plain) and not any("opencv" in name for name in plain)
    with_opencv = listed("--packages", "--opencv")
    assert with_opencv == listed("--opencv", "--packages")
    assert with_opencv[: len(plain)] == plain and len(with_opencv) > len(plain)
    assert listed("--packages", "--tests", "--no-caffe") == listed("--no-caffe", "--tests", "--packages")
    assert listed("--packages", "--no-caffe", "--tests", "--torch") == [
        "ca-certificates",
        "python3",
        "python3-venv",
        "chromium",
        "xvfb",
        "python3-tk",
    ]
    done = run_environment(tmp_path, words=["--packages", "--opencv", "--no-caffe"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--opencv is for a Caffe with OpenCV" in done.stderr
    done = run_environment(tmp_path, words=["--packages", "--opencvv", "--tests", "all"])
    assert done.returncode == 2 and done.stdout == ""
    assert "tools/environment: unknown: '--opencvv' 'all'\nusage: tools/environment [--no-caffe]" in done.stderr
