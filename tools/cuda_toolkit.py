#!/usr/bin/env python3
"""Find nvcc and the CUDA libraries, check that they fit each other, and say what a build of Caffe uses of them.

nvcc is looked for in CUDACXX, CUDA_HOME, the PATH, /usr/local/cuda*, and in PyPI's nvidia packages (of this Python);
the first one found is taken. Headers and libraries come from the places that nvcc itself names, then from PyPI's
packages and the system's folders. What was found goes to stderr; stdout has options for CMake, one a line, and in the
last line the versions of nvcc, cuDNN and NCCL: they are part of the key of a build.

usage: tools/cuda_toolkit.py [--arch '70;80'] [--cudnn | --no-cudnn] [--nccl] [--venv DIR] [--try] [--quiet]
       tools/cuda_toolkit.py --print-packages [--nccl] | --has-packages NAME==VERSION...
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SUPPORTED = (12, 13)
CUDNN_SUPPORTED = (8, 9)
# With no device at hand: the data centre and workstation cards since 2017 that the nvcc found knows; the newest also as
# PTX, for cards yet to come.
ARCHITECTURES = ("70", "75", "80", "86", "89", "90", "100", "120")
# What --cuda-packages installs: the versions that were compiled and linked together.
# nvcc's own packages leave two of its parts open, and the newest of those do not go with it.
PACKAGES = (
    "cuda-toolkit[nvcc,cudart,cccl,cublas,curand]==13.0.2",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cudnn-cu13==9.28.1.4",
)
NCCL_PACKAGE = "nvidia-nccl-cu13==2.28.9"
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


@dataclass(frozen=True)
class Cudnn:
    """cuDNN as the library itself says it: version as (major, minor) and in full, and the CUDA major it is made for."""

    include: Path
    library: Path
    version: tuple
    release: str
    cuda: int


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


def find_library(name: str, majors: tuple, nvcc: Nvcc) -> "Path | None":
    """lib`name`.so of one of the versions; the first place that has it. Stubs are no libraries."""
    folders = [folder for folder in nvcc.libraries if folder.name != "stubs"]
    folders += [*(home / "lib" for home in package_folders()), *SYSTEM_LIBRARIES]
    for folder in folders:
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


def find_cudnn(nvcc: Nvcc) -> Cudnn:
    """cuDNN's header and library; ToolkitError where one is missing or header, library and CUDA do not fit."""
    include = find_header("cudnn_version.h", nvcc)
    if include is None:
        raise ToolkitError("no cudnn_version.h (of cuDNN 8 or 9)")
    version = header_version(include / "cudnn_version.h")
    if len(version) != 2 or version[0] not in CUDNN_SUPPORTED:
        raise ToolkitError(
            f"{include}/cudnn_version.h is of cuDNN {'.'.join(map(str, version))}; Caffe builds with 8 and 9"
        )
    library = find_library("cudnn", (version[0],), nvcc)
    if library is None:
        raise ToolkitError(f"no libcudnn.so.{version[0]} for the header in {include}")
    try:
        # In a process of its own: it would stay in this one, and it may be killed by what it finds.
        program = (
            "import ctypes, sys\nlibrary = ctypes.CDLL(sys.argv[1])\n"
            "library.cudnnGetVersion.restype = library.cudnnGetCudartVersion.restype = ctypes.c_size_t\n"
            "print(library.cudnnGetVersion(), library.cudnnGetCudartVersion())"
        )
        path = os.pathsep.join([*map(str, nvcc.libraries), *(str(home / "lib") for home in package_folders())])
        done = subprocess.run([sys.executable, "-c", program, str(library)], capture_output=True, text=True,
                              env={**os.environ, "LD_LIBRARY_PATH": path})  # fmt: skip
        number, cudart = map(int, done.stdout.split())
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ToolkitError(f"{library} cannot be loaded: {last[0]}") from None
    parts = (number // 10000, number // 100 % 100) if number >= 90000 else (number // 1000, number // 100 % 10)
    loaded = (*parts, number % 100)
    if loaded[:2] != version:
        raise ToolkitError(f"cuDNN does not match: {include} is of {version[0]}.{version[1]}, {library} of "
                           f"{loaded[0]}.{loaded[1]}")  # fmt: skip
    if cudart // 1000 != nvcc.version[0]:
        raise ToolkitError(f"cuDNN does not match: {library} is for CUDA {cudart // 1000}, nvcc of {nvcc.version[0]}")
    return Cudnn(include, library, version, ".".join(map(str, loaded)), cudart // 1000)


def find_nccl(nvcc: Nvcc) -> tuple:
    """(header's folder, library, version) of NCCL. ToolkitError: one is missing, or the header tells no version."""
    library, include = find_library("nccl", (2,), nvcc), find_header("nccl.h", nvcc)
    if library is None or include is None:
        raise ToolkitError("no nccl.h and libnccl.so.2: install NCCL, or PyPI's nvidia-nccl-cu13 into .venv")
    version = header_version(include / "nccl.h", "NCCL", ("MAJOR", "MINOR", "PATCH"))
    if len(version) != 3:
        raise ToolkitError(f"{include}/nccl.h tells no version (NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH)")
    return include, library, ".".join(map(str, version))


def known_architectures(nvcc: Nvcc) -> list:
    """All that nvcc makes code for, e.g. 75."""
    text = subprocess.run([str(nvcc.path), "--list-gpu-code"], capture_output=True, text=True).stdout
    return re.findall(r"sm_(\d+)$", text, re.M)


def device_architectures() -> list:
    """Those of the devices that the driver shows; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    found = re.findall(r"^(\d+)\.(\d+)$", subprocess.run(query, capture_output=True, text=True).stdout, re.M)
    return sorted({major + minor for major, minor in found}, key=int)


def choose_architectures(nvcc: Nvcc, wanted: "str | None") -> tuple:
    """What to compile for, and why: as asked, else the devices', else the list. ToolkitError for one nvcc lacks."""
    known = known_architectures(nvcc)
    release = ".".join(map(str, nvcc.version))
    if wanted:
        archs, why = [word.replace(".", "") for word in re.split(r"[;, ]+", wanted.strip()) if word], "as asked"
    else:
        archs, why = device_architectures(), "the devices here"
        if not archs:
            return [arch for arch in ARCHITECTURES if arch in known], "no device here: the usual ones"
    for arch in archs:
        if arch not in known:
            raise ToolkitError(f"nvcc of CUDA {release} makes no code for sm_{arch} ({why}), but for {' '.join(known)}")
    return sorted(set(archs), key=int), why


def try_out(nvcc: Nvcc, arch: str, includes: list, libraries: list) -> None:
    """Compile and link a program of all of it: what does not fit shows now, and not in the middle of a build."""
    headers = ["cuda_runtime.h", "cublas_v2.h", "curand.h", "thrust/device_vector.h"]
    source = "".join(f"#include <{header}>\n" for header in headers) + (
        "__global__ void add(float* x) { x[threadIdx.x] += 1; }\n"
        "int main() { float* x = 0; cublasHandle_t h; curandGenerator_t g; add<<<1, 1>>>(x);\n"
        "  return cublasCreate(&h) + curandCreateGenerator(&g, CURAND_RNG_PSEUDO_DEFAULT); }\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "try.cu")
        file.write_text(source, encoding="utf-8")
        command = [str(nvcc.path), "-std=c++17", "-cudart", "none", "-gencode", f"arch=compute_{arch},code=sm_{arch}"]
        command += [*(f"-I{path}" for path in includes), str(file), "-o", str(file.with_suffix(""))]
        command += [word for path in libraries for word in ("-Xlinker", str(path))]
        # Libraries of libraries lie beside them; that is not asked here.
        command += ["-Xlinker", "--allow-shlib-undefined"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        error = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise ToolkitError(f"{nvcc.path} compiles and links no program here: {error.strip()}")


def rpath(library: Path, venv: "Path | None") -> str:
    """How a program in bin/ finds a library: relative to itself inside the environment, else by its place."""
    if venv is not None and venv in library.parents:
        return f"$ORIGIN/../{library.parent.relative_to(venv)}"
    return str(library.parent)


def has_packages(wanted: list) -> bool:
    """Whether this Python has exactly these versions. (What an extra adds came with it.)"""
    for requirement in wanted:
        name, version = re.sub(r"\[.*\]", "", requirement).split("==")
        try:
            if metadata.version(name) != version:
                return False
        except metadata.PackageNotFoundError:
            return False
    return True


def say(what: str, value: object) -> None:
    print(f"  {what:14} {value}", file=sys.stderr)


def main(argv: list) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch")
    parser.add_argument("--cudnn", action=argparse.BooleanOptionalAction)
    parser.add_argument("--nccl", action="store_true")
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--try", action="store_true", dest="try_out", help="compile and link a small program")
    parser.add_argument("--quiet", action="store_true", help="do not say what was found")
    parser.add_argument("--print-packages", action="store_true")
    parser.add_argument("--has-packages", nargs="+")
    asked = parser.parse_args(argv)
    if asked.print_packages:
        print("\n".join([*PACKAGES, *([NCCL_PACKAGE] if asked.nccl else [])]))
        return 0
    if asked.has_packages:
        return 0 if has_packages(asked.has_packages) else 1
    try:
        with contextlib.redirect_stderr(io.StringIO() if asked.quiet else sys.stderr):
            options = choose(asked)
    except ToolkitError as error:
        print(f"tools/build_caffe: {error}", file=sys.stderr)
        return 1
    print("\n".join(options))
    return 0


def choose(asked: argparse.Namespace) -> list:
    """Find everything, say it, and return the options for CMake and, last, the versions."""
    nvcc = find_nvcc()
    major = nvcc.version[0]
    versions = [f"nvcc {nvcc.release}"]
    say("nvcc", f"{nvcc.path}, CUDA {major}.{nvcc.version[1]}")
    sonames = (("cudart", major), ("curand", 10), ("cublas", major))
    libraries = [need_library(name, number, nvcc) for name, number in sonames]
    includes = [need_header(name, nvcc) for name in ("cuda_runtime.h", "cublas_v2.h", "curand.h")]
    # CUDA 13 keeps thrust in a folder of its own, which nvcc knows and the host's compiler does not.
    thrust = find_header("thrust/version.h", nvcc) or find_header("cccl/thrust/version.h", nvcc)
    if thrust is None:
        raise ToolkitError(f"no thrust/version.h beside {nvcc.path} or in PyPI's packages in .venv (nvidia-cuda-cccl)")
    includes.append(thrust if (thrust / "thrust").is_dir() else thrust / "cccl")
    includes = list(dict.fromkeys(includes))
    say("libraries", ", ".join(map(str, libraries)))
    say("headers", ", ".join(map(str, includes)))
    archs, why = choose_architectures(nvcc, asked.arch)
    say("architectures", f"{' '.join('sm_' + arch for arch in archs)} ({why}), and compute_{archs[-1]} for later ones")
    cudnn = None
    if asked.cudnn is not False:
        try:
            cudnn = find_cudnn(nvcc)
            say("cuDNN", f"{cudnn.version[0]}.{cudnn.version[1]} for CUDA {cudnn.cuda}, {cudnn.library}")
        except ToolkitError as error:
            # One that is there and does not fit is an error unless cuDNN was refused; none at all is not.
            if asked.cudnn or "does not match" in str(error) or "cannot be loaded" in str(error):
                raise ToolkitError(f"{error}; --no-cudnn builds without it") from None
            say("cuDNN", f"none: {error}")
    else:
        say("cuDNN", "none, as asked")
    options = ["-DCPU_ONLY=OFF", f"-DUSE_CUDNN={'ON' if cudnn else 'OFF'}"]
    used = list(libraries)
    if cudnn:
        options += [f"-DCUDNN_INCLUDE={cudnn.include}", f"-DCUDNN_LIBRARY={cudnn.library}"]
        used.append(cudnn.library)
        versions.append(f"cuDNN {cudnn.release}")
    if asked.nccl:
        include, library, version = find_nccl(nvcc)
        say("NCCL", f"{version}, {library}")
        options += ["-DUSE_NCCL=ON", f"-DNCCL_INCLUDE_DIR={include}", f"-DNCCL_LIBRARIES={library}"]
        used.append(library)
        versions.append(f"NCCL {version}")
    if asked.try_out:
        try_out(nvcc, archs[0], includes, libraries)
    rpaths = list(dict.fromkeys(rpath(path, asked.venv) for path in used))
    python_rpaths = [path.replace("$ORIGIN/..", "$ORIGIN/../../../..") for path in rpaths]
    return [
        *options,
        f"-DCUDA_TOOLKIT_ROOT_DIR={nvcc.home}",
        # As if CMake had seen this root before: else it forgets the places given below and looks itself.
        f"-DCUDA_TOOLKIT_ROOT_DIR_INTERNAL={nvcc.home}",
        f"-DCUDA_TOOLKIT_TARGET_DIR={nvcc.home}",
        f"-DCUDA_TOOLKIT_TARGET_DIR_INTERNAL={nvcc.home}",
        f"-DCUDA_NVCC_EXECUTABLE={nvcc.path}",
        f"-DCUDA_TOOLKIT_INCLUDE={includes[0]}",
        f"-DCUDA_CUDART_LIBRARY={libraries[0]}",
        "-DCUDA_ARCH_NAME=Manual",
        f"-DCUDA_ARCH_BIN={' '.join(archs)}",
        f"-DCUDA_ARCH_PTX={archs[-1]}",
        "-DCUDA_NVCC_FLAGS=-std=c++17",
        "-DCMAKE_CXX_STANDARD=17",
        f"-DCAFFE_CUDA_INCLUDES={';'.join(map(str, includes))}",
        f"-DCAFFE_CUDA_LIBRARIES={';'.join(map(str, libraries))}",
        f"-DCAFFE_CUDA_RPATH={';'.join(rpaths)}",
        f"-DCAFFE_CUDA_RPATH_PYTHON={';'.join(python_rpaths)}",
        ", ".join(versions),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
