#!/usr/bin/env python3
"""Gather what tools/test_gpu runs into one folder that can be carried to a bare machine with a GPU.

BUILD... are folders that `tools/build_caffe --cuda --caffe-tests --into BUILD` made, or .venv; each is named after its
folder in the table. Programs, the libraries that they need (not the C library's, and CUDA's only with --cuda-libraries:
1.5 GB), nets that bring their own data, derived nets, the digits as LMDBs, and the engine. Run with .venv/bin/python.
The weights that are split are trained by the first build, on the CPU. With --archive the folder holds the scripts and
one compressed file, of at most --limit MiB.

usage: tools/gpu_pack.py [--cuda-libraries | --nets-only] [--python 3.12] [--archive [--limit MIB]] DIR BUILD...
"""

import argparse
import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# These belong to the machine's own C library and driver.
SYSTEM = re.compile(
    r"^(ld-linux|lib(c|m|mvec|pthread|dl|rt|util|anl|nsl|crypt|resolv|BrokenLocale|thread_db)\."
    r"|libnss_|libcuda\.|libnvidia)"
)
CUDA = re.compile(r"^lib(cudart|cublas|cublasLt|curand|cudnn|nccl)[._]")

# What the machine with the GPU runs, all of it, by a Python that may have nothing of ours.
SCRIPTS = ("tools/test_gpu", "tools/gpu_programs.py", "tools/gpu_steps.py", "tools/gpu_table.py")

# One convolution of each resolution, the one that halves the image among them.
SPLIT = "conv1,res2_conv1,res3_conv2"


def run(command: list, cwd: Path) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tools/gpu_pack.py: {' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")


def copy_build(build: Path, target: Path, cuda_libraries: bool) -> None:
    programs = [build / "bin/caffe", build / "libexec/caffe-test"]
    for program in programs:
        if not program.is_file():
            sys.exit(f"tools/gpu_pack.py: {build} has no {program.relative_to(build)}: build it with --caffe-tests")
        (target / program.relative_to(build)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(program, target / program.relative_to(build))
    (target / "lib").mkdir()
    others = [lib for lib in target.parent.glob("*/lib") if lib.parent != target]
    text = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    needed = dict(re.findall(r"^\s*(\S+) => (/\S+)", text, re.M))
    for name, place in sorted(needed.items()):
        if SYSTEM.match(name) or (CUDA.match(name) and not cuda_libraries):
            continue
        copy_library(Path(place), target / "lib" / name, others)
        if name.startswith("libcudnn."):
            # These it loads itself.
            for part in Path(place).parent.glob(f"libcudnn_*.so.{name.rsplit('.', 1)[1]}"):
                shutil.copy(part, target / "lib")
    if cuda_libraries and any(name.startswith("libcudnn.") for name in needed):
        compilers = nvrtc({name: Path(place) for name, place in needed.items() if CUDA.match(name)})
        for path in compilers:
            shutil.copy(path, target / "lib")
        if not compilers:
            print(f"{build}: no libnvrtc beside its CUDA libraries; cuDNN loads it where it compiles an algorithm anew")
    if any(name.startswith("libnccl.") for name in needed):
        compile_nccl(build, target, {name: Path(place) for name, place in needed.items() if CUDA.match(name)})
    for path in [*target.glob("bin/*"), *target.glob("libexec/*"), *target.glob("lib/libcaffe*")]:
        run(["strip", path], target)
    shutil.copytree(build / "share/caffe/src/caffe/test", target / "share/src/caffe/test")
    shutil.copytree(build / "share/caffe/examples/images", target / "share/examples/images")


def copy_library(place: Path, target: Path, others: list) -> None:
    """One file where several builds have the same library: an archive holds it once."""
    for folder in others:
        same = folder / target.name
        if same.is_file() and filecmp.cmp(place, same, shallow=False):
            os.link(same, target)
            return
    shutil.copy(place, target)


def compile_nccl(build: Path, target: Path, needed: dict) -> None:
    """caffe-nccl, which trains through NCCL in processes, as caffe itself does with several devices only."""
    cuda = [place.resolve().parent.parent / "include" for place in needed.values()]
    # CUDA's packages of PyPI and its toolkits have their headers beside their libraries.
    includes = [build / "share/caffe/include", *dict.fromkeys(folder for folder in cuda if folder.is_dir())]
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder) / "caffe/proto"
        generated.mkdir(parents=True)
        proto = build / "share/caffe/src/caffe/proto"
        run(["protoc", f"--proto_path={proto}", f"--cpp_out={generated}", proto / "caffe.proto"], target)
        flags = [word for path in [folder, *includes] for word in ("-isystem", path)]
        library = next((build / "lib").glob("libcaffe.so.*"))
        found = "-Wl,-rpath-link," + ":".join(sorted({str(place.parent) for place in needed.values()}))
        run(
            [
                *(shlex.split(os.environ.get("CXX", "")) or ["c++"]),
                "-std=c++17",
                "-O1",
                "-DUSE_NCCL",
                *flags,
                ROOT / "tools/gpu_nccl.cpp",
                "-o",
                target / "libexec/caffe-nccl",
                library,
                found,
                *needed.values(),
                "-lboost_thread",
                "-lboost_system",
                "-lglog",
                "-lprotobuf",
            ],
            target,
        )


def nvrtc(needed: dict) -> list:
    """CUDA's compiler as a library, of the same CUDA: cuDNN 9 loads it by name, so that ldd does not show it."""
    major = next(name.rsplit(".", 1)[1] for name in needed if name.startswith("libcudart."))
    own = re.compile(rf"libnvrtc\.so\.{major}|libnvrtc-builtins\.so\.{major}\.\d+")
    folders = list(dict.fromkeys(path.parent for path in needed.values()))
    # PyPI's packages for CUDA 12 have a folder each.
    for folder in list(folders):
        if folder.name == "lib" and folder.parents[1].name == "nvidia":
            folders += sorted(folder.parents[1].glob("*/lib"))
    found: dict = {}
    for folder in folders:
        for path in sorted(folder.glob("libnvrtc*")):
            if own.fullmatch(path.name):
                found.setdefault(path.name, path)
    return list(found.values())


def own_data(text: str, shape: tuple, classes: int) -> str:
    """The net with data of its own in place of its Data layers: noise, and labels of one class."""
    from caffe_split.formats import prototxt
    from caffe_split.net.layers import all_layers

    document = prototxt.parse(text)
    for layer in all_layers(document):
        if layer.type == "Data":
            document.remove(layer.field)
    dims = " ".join(f"dim: {size}" for size in shape)
    return (
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
        f"shape {{ {dims} }} shape {{ dim: {shape[0]} }} "
        'data_filler { type: "gaussian" } data_filler { type: "constant" value: '
        f"{classes // 2} }} }} }}\n{document}"
    )


def write_nets(folder: Path, caffe: Path) -> None:
    """Every baseline with data of its own, three derived nets, ResNet-20 watched and not, and the digits."""
    from benchmarks.bench_tpm import prepare

    command = Path(sys.executable).parent / "caffe-split"
    nets = folder / "nets"
    nets.mkdir()
    for path in sorted((ROOT / "prototxt").iterdir()):
        shape, classes = ((16, 1, 8, 8), 10) if path.name == "digits" else ((8, 3, 32, 32), 10)
        text = (path / "train_val.prototxt").read_text(encoding="utf-8")
        (nets / f"{path.name}.prototxt").write_text(own_data(text, shape, classes), encoding="utf-8")

    digits = folder / "digits"
    shutil.copytree(ROOT / "prototxt/digits", digits)
    run([command, "data", "digits", "--out", "data"], folder)
    solver = (digits / "solver.prototxt").read_text(encoding="utf-8")
    net = (digits / "train_val.prototxt").read_text(encoding="utf-8")
    (digits / "watched.prototxt").write_text(net, encoding="utf-8")
    windows = ["--window", "2:12", "--window", "12:18"]
    run([command, "instrument", "digits/watched.prototxt", *windows, "--in-place"], folder)
    short = {"max_iter": "20", "display": "1", "test_interval": "1000000", "snapshot": "20"}
    for field, value in short.items():
        solver = re.sub(rf"^{field}: .*$", f"{field}: {value}", solver, flags=re.M)
    # NCCL wants the last one of nets with TPM layers.
    solver += "test_initialization: false\nlayer_wise_reduce: false\n"
    for mode in ("CPU", "GPU"):
        text = re.sub(r"^solver_mode: .*$", f"solver_mode: {mode}", solver, flags=re.M)
        text = text.replace("digits/digits", f"digits/{mode.lower()}").replace("train_val", "watched")
        (digits / f"{mode.lower()}.prototxt").write_text(text, encoding="utf-8")
    run([caffe, "train", "-solver", "digits/cpu.prototxt"], folder)
    derive = [command, "make-derived", "digits/solver.prototxt", "--weights", "digits/cpu_iter_20.caffemodel"]
    derive += ["--layers", SPLIT, "--partition", "random:0"]
    for kind in ("extension", "residual", "skip"):
        run([*derive, "--kind", kind, "--out", kind], folder)
        text = (folder / kind / "train_val.prototxt").read_text(encoding="utf-8")
        (nets / f"digits_{kind}.prototxt").write_text(own_data(text, (16, 1, 8, 8), 10), encoding="utf-8")
        # What a derived net starts from is in its weights; its copies have no fillers, and would be all zero.
        shutil.copy(folder / kind / "init.caffemodel", nets / f"digits_{kind}.caffemodel")
        shutil.rmtree(folder / kind)
    for left in digits.glob("cpu_iter_*"):
        left.unlink()

    speed = folder / "speed"
    speed.mkdir()
    prepare(speed, 128, "GPU")
    for path in speed.glob("*_solver.prototxt"):
        text = path.read_text(encoding="utf-8").replace(f"{folder}/", "")
        text = text.replace("display: 0", "display: 50").replace("1000000", "1000")
        path.write_text(text + "snapshot_after_train: false\n", encoding="utf-8")


def write_archive(folder: Path, limit: float) -> int:
    """pack.tar.xz in place of the folder's content, except the scripts; its bytes. SystemExit where it is too large."""
    archive = folder.parent / f".{folder.name}.tar.xz"
    with tarfile.open(archive, "w:xz", preset=6) as file:
        for path in sorted(folder.iterdir()):
            file.add(path, path.name)
    size = archive.stat().st_size
    if size > limit * 2**20:
        archive.unlink()
        sys.exit(f"tools/gpu_pack.py: the archive has {size / 2**20:.0f} MiB, more than {limit:g}: pack fewer builds")
    names = {Path(name).name for name in SCRIPTS}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()
    archive.rename(folder / "pack.tar.xz")
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda-libraries", action="store_true")
    parser.add_argument("--nets-only", action="store_true", help="no programs: the nets and the digits alone")
    parser.add_argument("--python", help="there, e.g. 3.12: brings what the engine may lack; default: nothing")
    parser.add_argument("--archive", action="store_true", help="one compressed file, beside the scripts")
    parser.add_argument("--limit", type=float, default=60, help="MiB that the archive may have [default: 60]")
    parser.add_argument("folder", type=Path)
    parser.add_argument("builds", type=Path, nargs="+")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if folder.exists():
        sys.exit(f"tools/gpu_pack.py: {asked.folder} exists already")
    builds = [build.resolve() for build in asked.builds]
    for build in builds:
        if not (build / "bin/caffe").is_file():
            how = f"tools/build_caffe --cuda --caffe-tests --into {shlex.quote(str(build))}"
            sys.exit(f"tools/gpu_pack.py: {build} has no bin/caffe: make it by {how}")
    folder.mkdir(parents=True)
    for build in [] if asked.nets_only else builds:
        (folder / "builds").mkdir(exist_ok=True)
        copy_build(build, folder / "builds" / build.name.lstrip("."), asked.cuda_libraries)
    sys.path.insert(0, str(ROOT))
    write_nets(folder, builds[0] / "bin/caffe")
    if asked.nets_only:
        return 0
    for script in SCRIPTS:
        shutil.copy2(ROOT / script, folder)
    shutil.copy(ROOT / "benchmarks/torch_resnet20.py", folder)
    shutil.copytree(ROOT / "caffe_split", folder / "python/caffe_split", ignore=shutil.ignore_patterns("__pycache__"))
    if asked.python:
        # All that the engine wants and a Python with PyTorch may lack.
        tags = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28")]
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
                f"--python-version={asked.python}",
                *tags,
                "--target",
                folder / "python",
                "lmdb",
            ],
            folder,
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if asked.archive:
        size = write_archive(folder, asked.limit)
    print(f"{asked.folder}: {size / 1e6:.0f} MB; on the machine with the GPU: python3 {asked.folder.name}/test_gpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
