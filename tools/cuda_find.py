"""Where nvcc, headers and libraries of CUDA are. Used by tools/cuda_toolkit.py and tools/check_cuda.

nvcc is looked for in CUDACXX, CUDA_HOME, the PATH, /usr/local/cuda*, and in PyPI's nvidia packages (of this Python).
What a variable names is taken; else the first one of a version that Caffe builds with. Headers and libraries come from
the places that nvcc itself names, then from the system's folders, then from PyPI's packages; for PyPI's nvcc from those
first. PyTorch brings such packages along, and they need not be for the nvcc at hand.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = (12, 13)
LOCAL = Path("/usr/local")
# Put before the PATH for the Debian packages' protoc and compiler: an active conda environment comes first there.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LIBRARY_FOLDERS = (
    "lib64",
    "lib",
    "targets/x86_64-linux/lib",
    "targets/sbsa-linux/lib",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
)
SYSTEM_INCLUDES = (Path("/usr/local/include"), Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu"))
SYSTEM_LIBRARIES = (Path("/usr/local/lib"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))
INCLUDE_FOLDERS = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")


class ToolkitError(Exception):
    """What is missing or does not fit, in one line that says what to do."""


class NoNvccError(ToolkitError):
    """No nvcc in any of the usual places."""


class UnsupportedError(ToolkitError):
    """An nvcc of a CUDA that Caffe is not built with."""


@dataclass(frozen=True)
class Nvcc:
    """A compiler that starts: its place, version as (major, minor) and in full, folders for headers and libraries."""

    path: Path
    version: tuple
    release: str
    home: Path
    includes: tuple
    libraries: tuple


def package_folders() -> Iterator[Path]:
    """The folders nvidia/* of PyPI's packages, e.g. nvidia/cu13 and nvidia/cudnn."""
    for folder in sys.path:
        yield from sorted(Path(folder, "nvidia").glob("*"), reverse=True)


def named_places() -> list:
    """Where the user's variables say that nvcc is."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return [os.environ.get("CUDACXX"), home and Path(home, "bin/nvcc")]


def usual_places() -> list:
    """Where else nvcc may be, the first wish first; in /usr/local cuda itself, then the newest."""
    local = sorted(LOCAL.glob("cuda*"), key=lambda folder: [*map(int, re.findall(r"\d+", folder.name))], reverse=True)
    local.sort(key=lambda folder: folder.name != "cuda")
    return [
        shutil.which("nvcc"),
        *(folder / "bin/nvcc" for folder in local),
        *(folder / "bin/nvcc" for folder in package_folders()),
    ]


def find_nvcc() -> Nvcc:
    """The nvcc that is named, else the first in the usual places that Caffe builds with.

    NoNvccError: there is none. UnsupportedError or ToolkitError: what is wrong with the one that is named, or with the
    first of those that there are, where none will do.
    """
    named = os.environ.get("CUDACXX")
    if named and not is_program(named):
        raise ToolkitError(f"CUDACXX={named} is no program")
    for place in filter(is_program, named_places()):
        return describe(Path(place))
    wrong = None
    for place in filter(is_program, usual_places()):
        try:
            return describe(Path(place))
        except ToolkitError as error:
            wrong = wrong or error
    raise wrong or NoNvccError(
        "no nvcc in CUDACXX, CUDA_HOME, the PATH, /usr/local/cuda* or .venv: install a CUDA toolkit, or give "
        "--cuda-packages to install PyPI's into .venv"
    )


def is_program(place: "str | Path | None") -> bool:
    return bool(place) and Path(place).is_file() and os.access(place, os.X_OK)


def describe(nvcc: Path) -> Nvcc:
    """Ask a compiler for its version and its folders. It tells the folders as the compilation that it would run."""
    nvcc = Path(os.path.abspath(nvcc))
    try:
        done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True)
    except OSError as error:
        # One for another machine, for example.
        raise ToolkitError(f"{nvcc} cannot be run: {error.strerror}; name another nvcc by CUDACXX") from None
    release = re.search(r"release (\d+)\.(\d+)(?:, V([\d.]+))?", done.stdout)
    if done.returncode or not release:
        raise ToolkitError(f"{nvcc} --version fails or tells no release: name another nvcc by CUDACXX")
    version = (int(release[1]), int(release[2]))
    if version[0] not in SUPPORTED:
        raise UnsupportedError(
            f"{nvcc} is of CUDA {version[0]}.{version[1]}; Caffe builds with CUDA 12 and 13: name another by CUDACXX, "
            "or give --cuda-packages"
        )
    plan = subprocess.run(
        [str(nvcc), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull], capture_output=True, text=True
    ).stderr
    here = re.search(r"^#\$ _HERE_=(.*)$", plan, re.M)
    home = Path(here[1] if here else nvcc.parent).resolve().parent
    words = shlex.split(" ".join(re.findall(r"^#\$ (?:INCLUDES|LIBRARIES)=(.*)$", plan, re.M)))
    flags = {flag: [Path(os.path.normpath(word[2:])) for word in words if word.startswith(f"-{flag}")] for flag in "IL"}
    includes = [*flags["I"], *(home / folder for folder in INCLUDE_FOLDERS)]
    libraries = [*flags["L"], *(home / folder for folder in LIBRARY_FOLDERS)]
    full = release[3] or f"{release[1]}.{release[2]}"
    return Nvcc(nvcc, version, full, home, tuple(includes), tuple(libraries))


def _ordered(nvcc: Nvcc, own: Iterable, packages: list, system: Iterable) -> list:
    """nvcc's own folders, the system's, PyPI's; PyPI's second for an nvcc of theirs."""
    of_packages = any(nvcc.home == home.resolve() for home in package_folders())
    return [*own, *packages, *system] if of_packages else [*own, *system, *packages]


def header_folders(name: str, nvcc: Nvcc) -> list:
    """The folders that have a header, the first wish first."""
    packages = [home / "include" for home in package_folders()]
    return [folder for folder in _ordered(nvcc, nvcc.includes, packages, SYSTEM_INCLUDES) if (folder / name).is_file()]


def find_header(name: str, nvcc: Nvcc) -> "Path | None":
    """The folder of a header; None: there is none."""
    return next(iter(header_folders(name, nvcc)), None)


def library_folders(nvcc: Nvcc, system: Iterable = ()) -> list:
    """Where libraries may be, the first wish first. Stubs are no libraries."""
    own = [folder for folder in nvcc.libraries if folder.name != "stubs"]
    return _ordered(nvcc, own, [home / "lib" for home in package_folders()], system)


def find_libraries(name: str, major: int, nvcc: Nvcc) -> list:
    """All of lib`name`.so of that version, the first wish first."""
    places = (folder / f"lib{name}.so.{major}" for folder in library_folders(nvcc, SYSTEM_LIBRARIES))
    return [path for path in places if path.exists()]


def find_library(name: str, major: int, nvcc: Nvcc) -> "Path | None":
    """The first of those; None: there is none."""
    return next(iter(find_libraries(name, major, nvcc)), None)


def need_library(name: str, major: int, nvcc: Nvcc) -> Path:
    path = find_library(name, major, nvcc)
    if path is None:
        raise ToolkitError(
            f"no lib{name}.so.{major}, which CUDA {nvcc.version[0]} needs, beside {nvcc.path}, in PyPI's packages in "
            ".venv or in the system's folders; --cuda-packages brings PyPI's"
        )
    return path


def need_header(name: str, nvcc: Nvcc) -> Path:
    folder = find_header(name, nvcc)
    if folder is None:
        raise ToolkitError(f"no {name} beside {nvcc.path}, in PyPI's packages in .venv or in the system's folders")
    return folder


def header_version(header: Path, name: str = "CUDNN", parts: tuple = ("MAJOR", "MINOR")) -> tuple:
    """The numbers that a header defines, e.g. CUDNN_MAJOR and CUDNN_MINOR; shorter where it lacks one."""
    text = header.read_text(encoding="utf-8", errors="replace")
    found = [re.search(rf"define {name}_{part}\s+(\d+)", text) for part in parts]
    return tuple(int(match[1]) for match in found if match)
