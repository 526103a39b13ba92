"""tools/gpu_pack.py: which libraries go along, and how large the archive may be."""

import os
import subprocess
import sys
import tarfile

import pytest

from tests.caffe.gpu_stubs import (
    ROOT,
    stub,
)
from tests.support import load_tool


def test_libraries_of_another_cuda_are_left_out(tmp_path, monkeypatch):
    programs = load_tool("gpu_programs.py")
    places = {
        "cu13": ("libcudart.so.13", "libcurand.so.10"),
        "cublas": ("libcublas.so.12",),
        "cuda_runtime": ("libcudart.so.12",),
        "cudnn": ("libcudnn.so.9",),
        "curand": ("libcurand.so.10",),
    }
    for place, names in places.items():
        for name in names:
            stub(tmp_path / "nvidia" / place / "lib" / name, "")
    stub(tmp_path / "cuda/lib64/libcudart.so.13", "")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)

    def taken(major):
        monkeypatch.setattr(programs, "cuda_major", lambda build: major)
        found = programs.libraries("/b", [str(tmp_path)], [str(tmp_path / "cuda")])
        return [path.split("/")[-2] for path in found.split(":")[1:]]

    # A toolkit's come last.
    assert taken("13") == ["cu13", "cudnn", "curand", "cuda"]
    # cuDNN and cuRAND tell no CUDA; without cu13 they are those of the others.
    (tmp_path / "nvidia/cu13").rename(tmp_path / "cu13")
    assert taken("13") == ["cuda"]
    (tmp_path / "cu13").rename(tmp_path / "nvidia/cu13")
    assert taken("12") == ["cublas", "cuda_runtime", "cudnn", "curand"]
    assert taken("") == [*sorted(places), "cuda"]


@pytest.mark.parametrize(
    ("major", "runtime", "compiler"),
    [
        ("13", "nvidia/cu13/lib", "nvidia/cu13/lib"),
        ("12", "nvidia/cuda_runtime/lib", "nvidia/cuda_nvrtc/lib"),
        ("13", "cuda/lib64", "cuda/lib64"),
    ],
)
def test_packed_libraries_bring_the_compiler_that_cudnn_loads(tmp_path, major, runtime, compiler):
    gpu_pack = load_tool("gpu_pack.py")
    names = [f"libnvrtc-builtins.so.{major}.4", f"libnvrtc.so.{major}"]
    for name in [*names, f"libnvrtc.so.{major}.4.12", "libnvrtc.alt.so.13", "libnvrtc.so.11.2", "libnvrtc_static.a"]:
        stub(tmp_path / compiler / name, "")
    needed = {f"libcudart.so.{major}": tmp_path / runtime / f"libcudart.so.{major}"}
    needed["libcudnn.so.9"] = tmp_path / "nvidia/cudnn/lib/libcudnn.so.9"
    assert sorted(path.name for path in gpu_pack.nvrtc(needed)) == names


def test_packed_libraries_are_not_those_of_the_c_library():
    gpu_pack = load_tool("gpu_pack.py")
    system = "libc.so.6 libm.so.6 libmvec.so.1 libutil.so.1 libanl.so.1 libnsl.so.1 libcrypt.so.1 libpthread.so.0"
    system += " libdl.so.2 librt.so.1 libresolv.so.2 ld-linux-x86-64.so.2 libcuda.so.1 libnvidia-ml.so.1"
    assert [name for name in system.split() if not gpu_pack.SYSTEM.match(name)] == []
    ours = "libcaffe.so.1.0.0 libcudart.so.13 libcrypto.so.3 libcurl.so.4 libmpi.so.40 libz.so.1 libstdc++.so.6"
    assert [name for name in ours.split() if gpu_pack.SYSTEM.match(name)] == []


def test_an_archive_has_a_limit(tmp_path):
    gpu_pack = load_tool("gpu_pack.py")
    folder = tmp_path / "pack"
    (folder / "builds/a/lib").mkdir(parents=True)
    (folder / "builds/b/lib").mkdir(parents=True)
    (folder / "test_gpu").write_text("the script")
    library = tmp_path / "libopenblas.so.0"
    library.write_bytes(os.urandom(400_000))
    for build, others in (("a", []), ("b", [folder / "builds/a/lib"])):
        gpu_pack.copy_library(library, folder / "builds" / build / "lib" / library.name, others)
    with pytest.raises(SystemExit, match=r"the archive has 0 MiB, more than 0\.3: pack fewer builds"):
        gpu_pack.write_archive(folder, 0.3)
    assert (folder / "builds/a/lib" / library.name).is_file() and len(list(tmp_path.iterdir())) == 2
    # What both builds have is in it once.
    assert gpu_pack.write_archive(folder, 0.5) < 450_000
    assert sorted(path.name for path in folder.iterdir()) == ["pack.tar.xz", "test_gpu"]
    with tarfile.open(folder / "pack.tar.xz") as archive:
        archive.extractall(tmp_path / "there")
    for build in "ab":
        assert (tmp_path / "there/builds" / build / "lib" / library.name).read_bytes() == library.read_bytes()


def test_a_build_without_caffe_cannot_be_packed(tmp_path):
    command = [sys.executable, ROOT / "tools/gpu_pack.py", tmp_path / "pack", tmp_path / "build"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    how = f"tools/build_caffe --cuda --caffe-tests --into {tmp_path}/build"
    assert done.stderr == f"tools/gpu_pack.py: {tmp_path}/build has no bin/caffe: make it by {how}\n"
    assert not (tmp_path / "pack").exists()


def test_torch_net_has_the_parameters_of_the_prototxt():
    torch = pytest.importorskip("torch")
    from caffe_split.formats import prototxt
    from caffe_split.layertypes.summary import summarize

    names = {}
    exec(compile((ROOT / "benchmarks/torch_resnet20.py").read_text(), "torch_resnet20.py", "exec"), names)
    net = names["resnet20"]()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    expected = summarize(prototxt.read(ROOT / "prototxt/resnet20_cifar100/deploy.prototxt"))
    assert sum(parameter.numel() for parameter in net.parameters()) == sum(row.parameters for row in expected.rows)
