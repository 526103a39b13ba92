"""Builds the TPM layer for CUDA on the host: Caffe's own code without CPU_ONLY, over the stand-in in caffe/cuda_host.

A .cu file is compiled as it is, except for two forms that no C++ compiler takes, rewritten within their line:
`kernel<T><<<grid, block>>>(x)` becomes `cuda_host::Launch(kernel<T>, grid, block)(x)`, and a `__shared__` variable a
reference to the block's memory. Compiled files are kept in the user's cache folder, by all that they depend on: another
checkout does not compile them again.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = ROOT / "tests/caffe/cuda_host"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caffe-split/cuda-host"
KERNEL = "src/caffe/layers/tpm_layer.cu"

# What the TPM layer's tests need of Caffe.
SOURCES = (
    "src/gtest/gtest-all.cpp",
    "src/caffe/test/test_tpm_layer.cpp",
    "src/caffe/blob.cpp",
    "src/caffe/common.cpp",
    "src/caffe/layer.cpp",
    "src/caffe/net.cpp",
    "src/caffe/solver.cpp",
    "src/caffe/syncedmem.cpp",
    "src/caffe/layers/base_conv_layer.cpp",
    "src/caffe/layers/conv_layer.cpp",
    "src/caffe/layers/conv_layer.cu",
    "src/caffe/layers/dummy_data_layer.cpp",
    "src/caffe/layers/euclidean_loss_layer.cpp",
    "src/caffe/layers/euclidean_loss_layer.cu",
    "src/caffe/layers/loss_layer.cpp",
    "src/caffe/layers/split_layer.cpp",
    "src/caffe/layers/split_layer.cu",
    "src/caffe/layers/tpm_layer.cpp",
    "src/caffe/solvers/sgd_solver.cpp",
    "src/caffe/solvers/sgd_solver.cu",
    "src/caffe/util/benchmark.cpp",
    "src/caffe/util/hdf5.cpp",
    "src/caffe/util/im2col.cpp",
    "src/caffe/util/im2col.cu",
    "src/caffe/util/insert_splits.cpp",
    "src/caffe/util/io.cpp",
    "src/caffe/util/math_functions.cpp",
    "src/caffe/util/math_functions.cu",
    "src/caffe/util/upgrade_proto.cpp",
)
LIBRARIES = "boost_filesystem boost_thread boost_system glog gflags protobuf hdf5_serial_hl hdf5_serial openblas"


def rewrite(text: str, name: str) -> str:
    """A file of CUDA as a C++ compiler takes it over cuda_host.hpp, every line in its place."""
    launch = re.compile(r"([\w#]+(?:<[\w, ]+>)?)((?:\s|//[^\n]*\n)*)<<<([^;]*?)>>>\(")
    text = launch.sub(lambda found: f"cuda_host::Launch({found[1]}{found[2]}, {found[3]})(", text)
    shared = re.compile(r"__shared__ ([\w ]+) (\w+)((?:\[[^\]]+\])?);")
    text = shared.sub(r"\1 (&\2)\3 = cuda_host::Shared<\1\3, CUDA_HOST_NEXT>();", text)
    code = re.sub(r"//[^\n]*", "", text)
    for form in ("<<<", "__shared__"):
        if form in code:
            raise ValueError(f"{name}: a form with {form} that tests/cuda_host.py does not rewrite")
    # Those of one kernel stand one after another: with eight places each has its own.
    count = text.count("CUDA_HOST_NEXT")
    for number in range(count):
        text = text.replace("CUDA_HOST_NEXT", str(number % 8), 1)
    return f'#line 1 "{name}"\n{text}'


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def run(command: list) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout[-4000:]}")


def output(command: list) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


class Build:
    """The source in a folder of its own, and what is compiled of it."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "caffe"
        run([ROOT / "tools/build_caffe", "--write-source", self.tree, "--cuda"])
        proto = self.tree / "src/caffe/proto"
        (self.tree / "include/caffe/proto").mkdir()
        # Messages that are read by their description: a third of the lines to compile.
        schema = proto / "caffe.proto"
        schema.write_text(f"{schema.read_text(encoding='utf-8')}\noption optimize_for = CODE_SIZE;\n", encoding="utf-8")
        run(["protoc", f"--proto_path={proto}", f"--cpp_out={self.tree}/include/caffe/proto", proto / "caffe.proto"])
        for path in self.tree.rglob("*.hpp"):
            text = path.read_text(encoding="utf-8")
            if "<<<" in text:
                path.write_text(rewrite(text, str(path.relative_to(self.tree))), encoding="utf-8")
        CACHE.mkdir(parents=True, exist_ok=True)
        # Those that were used last stay.
        made = sorted(CACHE.glob("*.o"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in made[200:]:
            path.unlink()
        headers = [*(self.tree / "include").rglob("*"), *HOST.rglob("*.h*"), *(self.tree / "src/gtest").glob("*")]
        self.headers = digest([path.read_bytes() for path in sorted(headers) if path.is_file()])
        self.cxx = os.environ.get("CXX", "").split() or ["c++"]
        packages = output([ROOT / "tools/environment", "--packages"]).split()
        # The compiler, and the libraries whose headers Caffe includes.
        self.system = output([*self.cxx, "--version"]) + output(["dpkg-query", "-W", *packages])

        self.folder = folder
        self.lock = threading.Lock()
        self.ready: dict = {}

    def common_headers(self, flags: tuple) -> Path:
        """What most of Caffe's files include, compiled once for these flags."""
        with self.lock:
            if flags not in self.ready:
                place = self.folder / f"headers-{len(self.ready)}"
                place.mkdir()
                names = ("caffe/solver.hpp", "caffe/layers/tpm_layer.hpp", "caffe/util/math_functions.hpp")
                (place / "common.hpp").write_text("".join(f'#include "{name}"\n' for name in names), encoding="utf-8")
                run([*self.words(flags), "-x", "c++-header", place / "common.hpp", "-o", place / "common.hpp.gch"])
                self.ready[flags] = place / "common.hpp"
            return self.ready[flags]

    def words(self, flags: tuple) -> list:
        # Most time goes into compiling. Warnings are those of tools/check_cuda.
        words = [*self.cxx, "-std=c++17", "-w", "-U_FORTIFY_SOURCE", *(flags or ("-O0",)), "-DUSE_HDF5"]
        includes = [HOST / "include", self.tree / "include", self.tree / "src", self.tree / "include/caffe/proto"]
        return [*words, *(f"-I{include}" for include in [*includes, "/usr/include/hdf5/serial"])]

    def compile(self, source: Path | str, text: str | None = None, *flags: str) -> Path:
        """The object of a file: of the tree by its name in it, or of this folder; `text` in place of its own."""
        path = self.tree / source
        name = str(path.relative_to(self.tree) if path.is_relative_to(self.tree) else path.relative_to(ROOT))
        is_changed = text is not None
        text = text if text is not None else path.read_text(encoding="utf-8")
        if path.suffix == ".cu":
            text = rewrite(text, name)
        words = self.words(flags)
        plain = [word for word in words if not word.startswith("-I")]
        made = CACHE / f"{path.stem}-{digest(text, self.headers, plain, self.system)}.o"
        if made.exists():
            os.utime(made)
            return made
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            (Path(work) / f"{path.stem}.cpp").write_text(text, encoding="utf-8")
            # For one file alone they would take more time than they save.
            if name.startswith("src/caffe/") and (is_changed or not flags):
                words += ["-include", self.common_headers(flags)]
            run([*words, "-c", f"{work}/{path.stem}.cpp", "-o", f"{work}/o"])
            os.replace(f"{work}/o", made)
        return made

    def program(self, out: Path, kernels: str | None = None, sanitize: bool = False) -> Path:
        """The test program; `kernels` in place of the layer's .cu. ThreadSanitizer checks these and their runs."""
        flags = ("-O1", "-g", "-fsanitize=thread") if sanitize else ("-O2",)
        files = [self.tree / "include/caffe/proto/caffe.pb.cc", *SOURCES, HOST / "runtime.cpp", HOST / "main.cpp"]
        jobs: list = [(KERNEL, kernels, *flags), (HOST / "execution.cpp", None, *flags), *((file,) for file in files)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self.compile(*job), jobs))
        libraries = ["-pthread", *(f"-l{name}" for name in LIBRARIES.split())]
        run([*self.cxx, *(flags[2:]), *objects, "-o", out, *libraries])
        return out
