"""Where nvcc, headers and libraries of CUDA are. Used by tools/cuda_toolkit.py and tools/check_cuda.

nvcc is looked for in CUDACXX, CUDA_HOME, the PATH, /usr/local/cuda*, and in PyPI's nvidia packages (of this Python);
the first one found is taken. Headers and libraries come from the places that nvcc itself names, then from PyPI's
packages and the system's folders.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = (12, 13)
LIBRARY_FOLDERS = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib/x86_64-linux-gnu",
                   "lib/aarch64-linux-gnu")  # fmt: skip
SYSTEM_INCLUDES = (Path("/usr/local/include"), Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu"))
SYSTEM_LIBRARIES = (Path("/usr/local/lib"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))
INCLUDE_FOLDERS = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")


class ToolkitError(Exception):
    """What is missing or does not fit, in one line that says what to do."""


class NoNvccError(ToolkitError):
    """No nvcc in any of the usual places."""


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


def usual_places() -> list:
    """Where nvcc may be, the first wish first."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return [
        os.environ.get("CUDACXX"),
        home and Path(home, "bin/nvcc"),
        shutil.which("nvcc"),
        *(folder / "bin/nvcc" for folder in sorted(Path("/usr/local").glob("cuda*"))),
        *(folder / "bin/nvcc" for folder in package_folders()),
    ]


def find_nvcc() -> Nvcc:
    """The first nvcc in the usual places. NoNvccError: there is none; ToolkitError: a named one is no program."""
    named = os.environ.get("CUDACXX")
    if named and not os.access(named, os.X_OK):
        raise ToolkitError(f"CUDACXX={named} is no program")
    for place in usual_places():
        if place and Path(place).is_file() and os.access(place, os.X_OK):
            return describe(Path(place))
    raise NoNvccError(
        "no nvcc in CUDACXX, CUDA_HOME, the PATH, /usr/local/cuda* or .venv: install a CUDA toolkit, or give "
        "--cuda-packages to install PyPI's into .venv"
    )


def describe(nvcc: Path) -> Nvcc:
    """Ask a compiler for its version and its folders. It tells the folders as the compilation that it would run."""
    nvcc = Path(os.path.abspath(nvcc))
    done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)\.(\d+)(?:, V([\d.]+))?", done.stdout)
    if done.returncode or not release:
        raise ToolkitError(f"{nvcc} --version fails or tells no release: name another nvcc by CUDACXX")
    version = (int(release[1]), int(release[2]))
    if version[0] not in SUPPORTED:
        raise ToolkitError(
            f"{nvcc} is of CUDA {version[0]}.{version[1]}; Caffe builds with CUDA 12 and 13: name another by CUDACXX"
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


def find_header(name: str, nvcc: Nvcc) -> "Path | None":
    """The folder of a header: nvcc's own, PyPI's, the system's."""
    folders = [*nvcc.includes, *(home / "include" for home in package_folders()), *SYSTEM_INCLUDES]
    return next((folder for folder in folders if (folder / name).is_file()), None)


def library_folders(nvcc: Nvcc) -> list:
    """nvcc's own, then PyPI's. Stubs are no libraries."""
    own = [folder for folder in nvcc.libraries if folder.name != "stubs"]
    return [*own, *(home / "lib" for home in package_folders())]


def find_library(name: str, majors: tuple, nvcc: Nvcc) -> "Path | None":
    """lib`name`.so of one of the versions; the first place that has it, the system's last."""
    for folder in [*library_folders(nvcc), *SYSTEM_LIBRARIES]:
        for major in majors:
            path = folder / f"lib{name}.so.{major}"
            if path.exists():
                return path
    return None


def need_library(name: str, major: int, nvcc: Nvcc) -> Path:
    path = find_library(name, (major,), nvcc)
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
