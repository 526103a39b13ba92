"""The Dockerfiles: thin, and their steps work in a bare Debian 12, which needs no Docker engine; other Debians, too."""

import os
import re
import shlex
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")


def steps(name):
    """The (instruction, text) pairs of a Dockerfile; continued lines joined."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_step_is_one_of_our_scripts(name, tmp_path):
    by_name = steps(name)
    assert by_name[0] == ("FROM", "debian:12-slim")
    (run,) = [text for instruction, text in by_name if instruction == "RUN"]
    ours, cleaning = run.split(" && ", 1)
    script = ROOT / shlex.split(ours)[0]
    assert script.is_relative_to(ROOT / "tools") and os.access(script, os.X_OK)
    assert cleaning.startswith("rm -rf /var/lib/apt/lists/*")
    assert by_name[-1] == ("CMD", '["caffe-split", "--help"]')
    # The script takes these options together: it comes to say that a folder has no Caffe. (Wrong use is status 2.)
    declared = {text.split("=")[0] for instruction, text in by_name if instruction == "ARG"}
    shown = set(re.findall(r"--build-arg (\w+)=", (ROOT / name).read_text()))
    assert shown == declared
    for value in ("", "90"):
        command = f'set -u; {ours} --print-source --into "{tmp_path}/none"'
        environment = {"PATH": "/usr/bin:/bin", **dict.fromkeys(declared, value)}
        tried = subprocess.run(["/bin/sh", "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True)
        assert tried.returncode == 1 and f"no Caffe is installed in {tmp_path}/none" in tried.stderr, tried.stderr


def test_what_git_ignores_does_not_go_into_an_image():
    def patterns(name):
        return {line.lstrip("*/").rstrip("/") for line in (ROOT / name).read_text().split()}

    assert patterns(".gitignore") - patterns(".dockerignore") == set()


def mirrors():
    """This machine's own apt: (address, suite) of the archive, security apart."""
    done = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True)
    found = re.findall(r"^'(\S+)/dists/(bookworm)/", done.stdout, re.M)
    return sorted(set(found))


def in_root(root, *command, **options):
    """A command in the bare root, with an empty environment, as docker build runs it."""
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
    # How the machine reaches its package indexes, and how busy it may be kept, is the machine's, not the image's.
    ours = [name for name in os.environ if name.startswith("PIP_") or "_proxy" in name or name == "CAFFE_BUILD_JOBS"]
    environment += [f"{name}={os.environ[name]}" for name in ours]
    return subprocess.run(["chroot", root, "env", "-i", *environment, *command], **options)


def size(root):
    """Megabytes on disk, without what is mounted."""
    return int(subprocess.run(["du", "-smx", root], capture_output=True, text=True, check=True).stdout.split()[0])


@pytest.fixture
def bare_root(tmp_path, request):
    """A minimal Debian, as debian:12-slim is but for documentation, with this machine's ways to its mirrors."""
    suite = getattr(request, "param", "bookworm")
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("needs root and debootstrap")
    found = mirrors()
    if not found:
        pytest.skip("this machine's apt knows no mirror of Debian 12")
    root = tmp_path / "root"
    bootstrap = ["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, root, found[0][0]]
    subprocess.run(bootstrap, check=True, capture_output=True)
    shutil.rmtree(root / "etc/apt")
    for name in (
        "etc/apt",
        "etc/pip.conf",
        "etc/xdg/pip",
        "etc/resolv.conf",
        "etc/hosts",
        "etc/ssl/certs/ca-certificates.crt",
    ):
        place = Path("/", name)
        if place.is_dir():
            shutil.copytree(place, root / name, dirs_exist_ok=True)
        elif place.exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place, root / name)
    # The machine's own other lists of packages may need keys that only it has.
    for extra in (root / "etc/apt/sources.list.d").glob("*"):
        if "debian" not in extra.read_text():
            extra.unlink()
    for lists in (root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").glob("*")):
        if lists.exists():
            lists.write_text(lists.read_text().replace("bookworm", suite))
    with ExitStack() as mounts:
        for name in ("proc", "dev", "dev/pts", "sys"):
            subprocess.run(["mount", "--bind", f"/{name}", root / name], check=True)
            mounts.callback(subprocess.run, ["umount", "--lazy", root / name], check=True)
        yield root
    # Gigabytes; but never through a mount that stayed.
    if str(root) not in Path("/proc/mounts").read_text():
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_steps_work_in_a_bare_debian(bare_root, name):
    before = size(bare_root)
    by_name = steps(name)
    (place,) = [text for instruction, text in by_name if instruction == "WORKDIR"]
    subprocess.run(["git", "clone", "--quiet", ROOT, bare_root / place.strip("/")], check=True)
    for instruction, text in by_name:
        if instruction == "RUN":
            # One architecture will do, as with --build-arg ARCH=90.
            command = f"cd {place} && ARCH=90 && {text}"
            done = in_root(
                bare_root, "/bin/sh", "-c", command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert done.returncode == 0, done.stdout[-3000:]
    print(f"{name}: {size(bare_root)} MB, {before} MB of them the bare Debian")
    (path,) = [
        text.split("=", 1)[1] for instruction, text in by_name if instruction == "ENV" and text.startswith("PATH=")
    ]
    path = path.replace("$PATH", "/usr/bin:/bin")
    command = f"cd {place} && export PATH={path} && caffe-split --help && caffe --version"
    run = in_root(bare_root, "/bin/sh", "-c", command, capture_output=True, text=True)
    assert run.returncode == 0 and "make-derived" in run.stdout and "caffe version 1.0.0" in run.stdout, run.stderr
    if name == "Dockerfile":
        done = in_root(
            bare_root,
            "/bin/sh",
            "-c",
            f"cd {place} && PATH={path} ./tools/demo",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        assert "done; the results are in /caffe-split/demo" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bare_root", ["bullseye", "trixie"], indirect=True)
def test_the_demo_works_on_the_debian_before_and_after(bare_root):
    """From nothing: another Python, compiler, Boost, protoc and CMake."""
    subprocess.run(["git", "clone", "--quiet", ROOT, bare_root / "caffe-split"], check=True)
    done = in_root(bare_root, "/caffe-split/tools/demo", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "done; the results are in /caffe-split/demo" in done.stdout
