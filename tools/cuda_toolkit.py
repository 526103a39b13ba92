#!/usr/bin/env python3
"""Find nvcc and the CUDA libraries, check that they fit each other, and say what a build of Caffe uses of them.

tools/cuda_find.py looks for nvcc, headers and libraries, tools/cuda_libraries.py for cuDNN and NCCL. What was found
goes to stderr; stdout has options for CMake, one a line, and in the last line the versions of nvcc, cuDNN and NCCL:
they are part of the key of a build.

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
from importlib import metadata
from pathlib import Path

from cuda_find import Nvcc, ToolkitError, find_header, find_nvcc, header_version, need_header, need_library
from cuda_libraries import MismatchError, find_cudnn, find_nccl

# With no device at hand: the data centre and workstation cards since 2017 that the nvcc found knows; the newest also as
# PTX, for cards yet to come.
ARCHITECTURES = ("70", "75", "80", "86", "89", "90", "100", "120")
# What --cuda-packages installs: the versions that were compiled and linked together.
# nvcc's own packages leave two of its parts open, and the newest of those do not go with it.
PACKAGES = (
    "cuda-toolkit[nvcc,cudart,cccl,cublas,curand]==13.0.2",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    # cuDNN loads it when it compiles a kernel, and does not say that it needs it.
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cudnn-cu13==9.28.1.4",
)
NCCL_PACKAGE = "nvidia-nccl-cu13==2.28.9"


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
    if wanted and re.search(r"\d", wanted):
        archs, why = [word.replace(".", "") for word in re.split(r"[;, ]+", wanted.strip()) if word], "as asked"
    else:
        archs, why = device_architectures(), "the devices here"
        if not archs:
            return [arch for arch in ARCHITECTURES if arch in known], "no device here: the usual ones"
    for arch in archs:
        if arch not in known:
            raise ToolkitError(f"nvcc of CUDA {release} makes no code for sm_{arch} ({why}), but for {' '.join(known)}")
    return sorted(set(archs), key=int), why


def host_compiler() -> str:
    """nvcc's compiler for the host, as its own variables name it, else the one that the .cpp files are compiled with;
    empty: the one that nvcc chooses."""
    words = shlex.split(os.environ.get("CXX", ""))
    return os.environ.get("CUDAHOSTCXX") or os.environ.get("NVCC_CCBIN") or (words[0] if len(words) == 1 else "")


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
        command += ["-ccbin", host] if (host := host_compiler()) else []
        command += [*(f"-I{path}" for path in includes), str(file), "-o", str(file.with_suffix(""))]
        command += [word for path in libraries for word in ("-Xlinker", str(path))]
        # Libraries of libraries lie beside them; that is not asked here.
        command += ["-Xlinker", "--allow-shlib-undefined"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        error = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        hint = "; CUDAHOSTCXX names another g++" if "unsupported" in error else ""
        if "exception specification" in error:
            hint = "; this CUDA is older than the C library here: --cuda-packages brings one that knows it"
        raise ToolkitError(f"{nvcc.path} compiles and links no program here: {error.strip()}{hint}")


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
    api = need_header("cuda_runtime_api.h", nvcc) / "cuda_runtime_api.h"
    of_header = header_version(api, "CUDART", ("VERSION",))
    if of_header and of_header[0] // 1000 != major:
        raise ToolkitError(
            f"{api} is of CUDA {of_header[0] // 1000}, {nvcc.path} of {major}: install the headers "
            f"of CUDA {major}, or give --cuda-packages"
        )
    say("libraries", ", ".join(map(str, libraries)))
    say("headers", ", ".join(map(str, includes)))
    say("host compiler", host_compiler() or "the one that nvcc chooses")
    archs, why = choose_architectures(nvcc, asked.arch)
    say("architectures", f"{' '.join('sm_' + arch for arch in archs)} ({why}), and compute_{archs[-1]} for later ones")
    cudnn = None
    if asked.cudnn is not False:
        try:
            cudnn = find_cudnn(nvcc)
            say("cuDNN", f"{cudnn.version[0]}.{cudnn.version[1]} for CUDA {cudnn.cuda}, {cudnn.library}")
        except ToolkitError as error:
            # One that is there and does not fit is an error unless cuDNN was refused; none at all is not.
            if asked.cudnn or isinstance(error, MismatchError):
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
        # Empty, nvcc chooses, as a distribution's does well; CMake would give it the compiler of the .c files. With a
        # type, a name alone is not taken for a file in the folder of the build.
        f"-DCUDA_HOST_COMPILER:STRING={host_compiler()}",
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
