"""tools/cuda_*.py find nvcc and the libraries, and say in one line what is missing or does not fit."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    # They stand beside each other.
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


cuda_find = load("cuda_find")
cuda_toolkit = load("cuda_toolkit")
ToolkitError = cuda_find.ToolkitError

# What a real nvcc answers to the questions it is asked, and an empty program for all that it compiles.
NVCC = """#!/bin/sh
case "$*" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.{patch}" ;;
  --dryrun*) echo '#$ _HERE_={home}/bin' >&2
    echo '#$ INCLUDES="-I{home}/bin/..//include"  ' >&2
    echo '#$ LIBRARIES=  "-L{home}/bin/..//lib64/stubs" "-L{home}/bin/..//lib64"' >&2 ;;
  --list-gpu-code) printf 'sm_75\\nsm_80\\nsm_90\\nsm_100\\n' ;;
  *) echo "$*" >>{home}/compiled; exit {status} ;;
esac
"""


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """A CUDA 13 toolkit of files with the right names, and the only one that there is."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(cuda_find, "package_folders", lambda: iter(()))
    monkeypatch.setattr(cuda_find, "SYSTEM_INCLUDES", ())
    monkeypatch.setattr(cuda_find, "SYSTEM_LIBRARIES", ())
    # No driver, so no devices.
    file(tmp_path / "smi/nvidia-smi", "#!/bin/sh\nexit 9\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/smi:/usr/bin:/bin")
    write_nvcc(tmp_path)
    for name in ("cuda_runtime.h", "cublas_v2.h", "curand.h", "cccl/thrust/version.h"):
        file(tmp_path / "include" / name)
    for name in ("libcudart.so.13", "libcublas.so.13", "libcurand.so.10"):
        file(tmp_path / "lib64" / name)
    return tmp_path


def file(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_nvcc(home, release="13.0", status=0, patch=48):
    file(home / "bin/nvcc", NVCC.format(home=home, release=release, status=status, patch=patch)).chmod(0o755)
    major, minor = map(int, release.split("."))
    file(home / "include/cuda_runtime_api.h", f"#define CUDART_VERSION  {1000 * major + 10 * minor}\n")


def choose(**asked):
    return cuda_toolkit.choose(
        argparse.Namespace(**{"arch": None, "cudnn": None, "nccl": False, "venv": None, "try_out": True, **asked})
    )


def add_cudnn(home, header="9.28", library=92800, cuda=13000):
    """A real shared library that tells these versions, and a header that tells its own."""
    major, minor = header.split(".")
    text = f"#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR {minor}\n#define CUDNN_PATCHLEVEL 1\n"
    file(home / "include/cudnn_version.h", text)
    source = file(home / "cudnn.c", "#include <stddef.h>\n")
    source.write_text(
        f"#include <stddef.h>\nsize_t cudnnGetVersion(void) {{ return {library}; }}\n"
        f"size_t cudnnGetCudartVersion(void) {{ return {cuda}; }}\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", home / f"lib64/libcudnn.so.{major}"], check=True)


def add_nccl(home, patch):
    file(home / "lib64/libnccl.so.2")
    file(home / "include/nccl.h", f"#define NCCL_MAJOR 2\n#define NCCL_MINOR 28\n#define NCCL_PATCH {patch}\n")


def test_options_name_what_was_found(toolkit, capsys):
    options = choose(arch="8.0;90")
    assert "-DUSE_CUDNN=OFF" in options and "-DCPU_ONLY=OFF" in options
    assert f"-DCUDA_NVCC_EXECUTABLE={toolkit}/bin/nvcc" in options
    assert f"-DCAFFE_CUDA_INCLUDES={toolkit}/include;{toolkit}/include/cccl" in options
    libraries = ";".join(f"{toolkit}/lib64/lib{name}" for name in ("cudart.so.13", "curand.so.10", "cublas.so.13"))
    assert f"-DCAFFE_CUDA_LIBRARIES={libraries}" in options
    assert "-DCUDA_ARCH_BIN=80 90" in options and "-DCUDA_ARCH_PTX=90" in options
    assert f"-DCAFFE_CUDA_RPATH={toolkit}/lib64" in options
    said = capsys.readouterr().err
    assert "CUDA 13.0" in said and "sm_80 sm_90 (as asked)" in said and "none: no cudnn_version.h" in said
    # All of it was tried before anything was said to be usable.
    assert f"-Xlinker {toolkit}/lib64/libcublas.so.13" in (toolkit / "compiled").read_text()


def test_without_devices_the_list_is_cut_to_what_nvcc_knows(toolkit, capsys):
    assert "-DCUDA_ARCH_BIN=75 80 90 100" in choose()
    assert "no device here" in capsys.readouterr().err


def test_architectures_of_the_devices(toolkit, tmp_path, monkeypatch, capsys):
    smi = file(tmp_path / "smi/nvidia-smi", "#!/bin/sh\nprintf '9.0\\n8.0\\n9.0\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:/usr/bin:/bin")
    assert "-DCUDA_ARCH_BIN=80 90" in choose()
    assert "the devices here" in capsys.readouterr().err
    smi.write_text("#!/bin/sh\necho 6.1\n")
    with pytest.raises(
        ToolkitError, match=r"CUDA 13\.0 makes no code for sm_61 \(the devices here\), but for 75 80 90"
    ):
        choose()


@pytest.mark.parametrize("release", ["11.8", "14.0"])
def test_other_versions_are_refused(toolkit, release):
    write_nvcc(toolkit, release)
    with pytest.raises(ToolkitError, match=rf"bin/nvcc is of CUDA {release}; Caffe builds with CUDA 12 and 13"):
        choose()


def test_no_nvcc(toolkit, monkeypatch):
    (toolkit / "bin/nvcc").unlink()
    monkeypatch.setattr(cuda_find, "usual_places", lambda: [None, toolkit / "bin/nvcc"])
    with pytest.raises(cuda_find.NoNvccError, match=r"no nvcc in CUDACXX, CUDA_HOME, the PATH.*--cuda-packages"):
        choose()
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    with pytest.raises(ToolkitError, match="CUDACXX=/nowhere/nvcc is no program"):
        choose()


def test_of_unnamed_compilers_the_first_that_fits_is_taken(tmp_path, monkeypatch):
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    for release in ("11.8", "12.4", "10.0"):
        write_nvcc(tmp_path / release, release)
    places = [tmp_path / release / "bin/nvcc" for release in ("11.8", "12.4")]
    monkeypatch.setattr(cuda_find, "usual_places", lambda: places)
    assert cuda_find.find_nvcc().version == (12, 4)
    # One that is named is not passed over.
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "11.8"))
    with pytest.raises(cuda_find.UnsupportedError, match=r"CUDA 11\.8"):
        cuda_find.find_nvcc()
    monkeypatch.delenv("CUDA_HOME")
    places[1:] = [tmp_path / "10.0/bin/nvcc"]
    with pytest.raises(cuda_find.UnsupportedError, match=r"CUDA 11\.8"):
        cuda_find.find_nvcc()


def test_the_newest_of_several_toolkits_is_taken(tmp_path, monkeypatch):
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(cuda_find, "LOCAL", tmp_path)
    monkeypatch.setattr(cuda_find, "package_folders", lambda: iter(()))
    for name in ("cuda-12.2", "cuda-13.0", "cuda-12.10", "cuda", "cuda-14.0"):
        write_nvcc(tmp_path / name, name[5:] or "12.4")
    places = [place.parts[-3] for place in cuda_find.usual_places()[1:]]
    assert places == ["cuda", "cuda-14.0", "cuda-13.0", "cuda-12.10", "cuda-12.2"]
    assert cuda_find.find_nvcc().version == (12, 4)
    shutil.rmtree(tmp_path / "cuda")
    assert cuda_find.find_nvcc().version == (13, 0)


def test_a_compiler_that_cannot_be_run(toolkit, monkeypatch):
    (toolkit / "bin/nvcc").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(ToolkitError, match=r"bin/nvcc cannot be run: Exec format error; name another nvcc by CUDACXX"):
        choose()
    # A folder may be entered, which for a file is to be run.
    monkeypatch.setenv("CUDACXX", str(toolkit / "bin"))
    with pytest.raises(ToolkitError, match=r"CUDACXX=.*bin is no program"):
        choose()


def test_pypi_packages_are_looked_into_after_the_system(toolkit, tmp_path, monkeypatch):
    """Unless nvcc is theirs: PyTorch brings some that need not be for the nvcc at hand."""
    package, system = tmp_path / "nvidia/cu13", tmp_path / "system"
    monkeypatch.setattr(cuda_find, "package_folders", lambda: iter([package]))
    monkeypatch.setattr(cuda_find, "SYSTEM_INCLUDES", (system / "include",))
    monkeypatch.setattr(cuda_find, "SYSTEM_LIBRARIES", (system / "lib",))
    (toolkit / "include/curand.h").unlink()
    (toolkit / "lib64/libcurand.so.10").unlink()
    for folder in (package, system):
        file(folder / "include/curand.h")
        file(folder / "lib/libcurand.so.10")
    assert f"-DCAFFE_CUDA_INCLUDES={toolkit}/include;{system}/include;{toolkit}/include/cccl" in choose()
    assert f"-DCAFFE_CUDA_RPATH={toolkit}/lib64;{system}/lib" in choose()
    write_nvcc(package)
    for name in ("cuda_runtime.h", "cublas_v2.h", "cccl/thrust/version.h"):
        file(package / "include" / name)
    for name in ("cudart", "cublas"):
        file(package / f"lib/lib{name}.so.13")
    monkeypatch.setenv("CUDA_HOME", str(package))
    assert f"-DCAFFE_CUDA_RPATH={package}/lib" in choose()
    # What it has not itself comes from its like first, as cuDNN does.
    monkeypatch.setattr(cuda_find, "package_folders", lambda: iter([package, package.parent / "cudnn"]))
    for folder in (system, package.parent / "cudnn"):
        file(folder / "include/cudnn_version.h")
    header = cuda_find.find_header("cudnn_version.h", cuda_find.find_nvcc())
    assert header == package.parent / "cudnn/include"


def test_headers_of_another_cuda_are_told(toolkit):
    file(toolkit / "include/cuda_runtime_api.h", "#define CUDART_VERSION  12040\n")
    with pytest.raises(ToolkitError, match=r"include/cuda_runtime_api\.h is of CUDA 12, .*bin/nvcc of 13"):
        choose()
    file(toolkit / "include/cuda_runtime_api.h", "#define CUDART_VERSION  13000\n")
    choose()


def test_compiler_for_the_host_is_the_one_that_was_tried(toolkit, monkeypatch):
    for name in ("CXX", "NVCC_CCBIN", "CUDAHOSTCXX"):
        monkeypatch.delenv(name, raising=False)
    assert "-DCUDA_HOST_COMPILER:STRING=" in choose()
    assert "-ccbin" not in (toolkit / "compiled").read_text()
    # Two words are a compiler with a launcher, which nvcc does not know.
    for name, taken in (("CXX", ""), ("CXX", "g++-12"), ("NVCC_CCBIN", "g++-11"), ("CUDAHOSTCXX", "g++-10")):
        monkeypatch.setenv(name, taken or "ccache g++")
        assert f"-DCUDA_HOST_COMPILER:STRING={taken}" in choose()
        tried = (toolkit / "compiled").read_text().splitlines()[-1]
        assert f"-ccbin {taken} " in tried if taken else "-ccbin" not in tried


@pytest.mark.parametrize("wanted", [";", " ", ""])
def test_an_empty_list_of_architectures_is_the_default(toolkit, wanted):
    assert "-DCUDA_ARCH_BIN=75 80 90 100" in choose(arch=wanted)


@pytest.mark.parametrize("name", ["libcudart.so.13", "libcublas.so.13", "libcurand.so.10"])
def test_missing_library_is_named(toolkit, name):
    (toolkit / "lib64" / name).unlink()
    # A library of another CUDA is none.
    file(toolkit / "lib64/libcublas.so.12")
    with pytest.raises(ToolkitError, match=rf"no {name}, which CUDA 13 needs, beside {toolkit}/bin/nvcc"):
        choose()


def test_missing_header_is_named(toolkit):
    (toolkit / "include/curand.h").unlink()
    with pytest.raises(ToolkitError, match=r"no curand\.h beside"):
        choose()


def test_compiler_that_cannot_compile_here(toolkit):
    write_nvcc(toolkit, status=1)
    with pytest.raises(ToolkitError, match="bin/nvcc compiles and links no program here"):
        choose()


def test_cudnn_that_fits(toolkit, capsys):
    add_cudnn(toolkit)
    options = choose()
    assert "-DUSE_CUDNN=ON" in options and f"-DCUDNN_LIBRARY={toolkit}/lib64/libcudnn.so.9" in options
    assert "9.28 for CUDA 13" in capsys.readouterr().err
    assert "-DUSE_CUDNN=OFF" in choose(cudnn=False)


def test_cudnn_8_tells_its_version_otherwise(toolkit):
    write_nvcc(toolkit, "12.4")
    for name in ("libcudart.so.12", "libcublas.so.12"):
        file(toolkit / "lib64" / name)
    add_cudnn(toolkit, header="8.9", library=8907, cuda=12020)
    assert f"-DCUDNN_LIBRARY={toolkit}/lib64/libcudnn.so.8" in choose()


@pytest.mark.parametrize(
    ("cudnn", "message"),
    [
        ({"cuda": 12080}, r"cuDNN does not match: .*libcudnn\.so\.9 is for CUDA 12, nvcc of 13"),
        ({"library": 90100}, r"cuDNN does not match: .*include is of 9\.28, .*libcudnn\.so\.9 of 9\.1"),
    ],
)
def test_cudnn_that_does_not_match(toolkit, cudnn, message):
    add_cudnn(toolkit, **cudnn)
    for asked in (None, True):
        with pytest.raises(ToolkitError, match=message + ".*--no-cudnn builds without it"):
            choose(cudnn=asked)
    assert "-DUSE_CUDNN=OFF" in choose(cudnn=False)


def test_the_cudnn_that_fits_is_taken_though_it_comes_later(toolkit, tmp_path, monkeypatch):
    add_cudnn(toolkit, library=92700, cuda=12080)
    package = tmp_path / "nvidia/cudnn"
    (package / "lib64").mkdir(parents=True)
    add_cudnn(package)
    (package / "lib64").rename(package / "lib")
    monkeypatch.setattr(cuda_find, "package_folders", lambda: iter([package]))
    assert f"-DCUDNN_LIBRARY={package}/lib/libcudnn.so.9" in choose()
    # Where none fits the first is told of, but for a header that is all that there is.
    (package / "lib/libcudnn.so.9").unlink()
    with pytest.raises(ToolkitError, match=rf"cuDNN does not match: {toolkit}/include is of 9\.28, .* of 9\.27"):
        choose()
    (toolkit / "lib64/libcudnn.so.9").unlink()
    file(package / "lib/libcudnn.so.9", "no library")
    file(package / "include/cudnn_version.h", "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 1\n")
    file(toolkit / "include/cudnn_version.h", "#define CUDNN_MAJOR 8\n#define CUDNN_MINOR 9\n")
    with pytest.raises(ToolkitError, match=r"nvidia/cudnn/lib/libcudnn\.so\.9 cannot be loaded"):
        choose()


def test_cudnn_that_is_asked_for_and_missing(toolkit):
    with pytest.raises(ToolkitError, match=r"no cudnn_version\.h .*--no-cudnn builds without it"):
        choose(cudnn=True)
    add_cudnn(toolkit, header="7.6", library=7600, cuda=13000)
    with pytest.raises(ToolkitError, match=r"is of cuDNN 7\.6; Caffe builds with 8 and 9"):
        choose(cudnn=True)


def test_libraries_in_the_environment_are_found_relative_to_it(toolkit):
    options = choose(venv=toolkit)
    assert "-DCAFFE_CUDA_RPATH=$ORIGIN/../lib64" in options
    assert "-DCAFFE_CUDA_RPATH_PYTHON=$ORIGIN/../../../../lib64" in options


def test_nccl_is_asked_for_and_missing(toolkit):
    with pytest.raises(ToolkitError, match=r"no nccl\.h and libnccl\.so\.2"):
        choose(nccl=True)
    file(toolkit / "lib64/libnccl.so.2")
    file(toolkit / "include/nccl.h", "#define NCCL_MAJOR 2\n")
    with pytest.raises(ToolkitError, match=r"include/nccl\.h tells no version"):
        choose(nccl=True)
    add_nccl(toolkit, patch=9)
    assert f"-DNCCL_LIBRARIES={toolkit}/lib64/libnccl.so.2" in choose(nccl=True)


def build(tmp_path, *words, **env):
    """tools/build_caffe with a cache of its own, into a folder of its own."""
    command = [ROOT / "tools" / "build_caffe", "--into", tmp_path / "into", *words]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **env}
    return subprocess.run(command, env=env, capture_output=True, text=True)


def stub(folder, name, script):
    path = file(folder / name, f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_versions_come_last_and_in_full(toolkit):
    assert choose()[-1] == "nvcc 13.0.48"
    add_cudnn(toolkit, library=92801)
    add_nccl(toolkit, patch=9)
    assert choose(nccl=True)[-1] == "nvcc 13.0.48, cuDNN 9.28.1, NCCL 2.28.9"


def test_an_upgraded_toolkit_is_another_build(toolkit, tmp_path):
    """The key of a build follows nvcc, cuDNN and NCCL in the same places; the CPU's has nothing of them."""
    add_cudnn(toolkit)
    add_nccl(toolkit, patch=9)

    def key(*words):
        run = build(tmp_path, "--print-key", *words, CUDACXX="", CUDA_HOME=str(toolkit), CAFFE_SOURCE="")
        assert run.returncode == 0, run.stderr
        assert re.fullmatch("[0-9a-f]{16}\n", run.stdout)
        return run.stdout

    cuda, cpu = ("--cuda", "--cudnn", "--nccl"), key("--cpu")
    keys = [key(*cuda)]
    assert key(*cuda) == keys[0]
    add_nccl(toolkit, patch=10)
    keys.append(key(*cuda))
    write_nvcc(toolkit, patch=88)
    keys.append(key(*cuda))
    add_cudnn(toolkit, library=92801)
    keys.append(key(*cuda))
    assert len({*keys, cpu}) == 5 and key("--cpu") == cpu


def test_build_tells_of_a_version_in_one_line_and_leaves_nothing(tmp_path):
    stub(tmp_path / "bin", "nvcc", 'echo "Cuda compilation tools, release 11.8, V11.8.89"')
    run = build(tmp_path, "--cuda", CUDACXX=f"{tmp_path}/bin/nvcc", CUDA_HOME="", CUDA_PATH="")
    assert run.returncode == 1
    message = "Caffe builds with CUDA 12 and 13: name another by CUDACXX, or give --cuda-packages"
    assert run.stderr.splitlines() == [f"tools/build_caffe: {tmp_path}/bin/nvcc is of CUDA 11.8; {message}"]
    assert not (tmp_path / "cache").exists() and not (tmp_path / "into").exists()


def test_build_wants_space_first(tmp_path):
    path = stub(tmp_path / "bin", "df", "echo ' Avail'; echo '  12M'")
    run = build(tmp_path, PATH=path)
    assert run.returncode == 1
    message = f"tools/build_caffe: building Caffe needs 200 MB in {tmp_path}/cache/caffe-split, where 12 MB are free"
    assert run.stderr.splitlines() == [message]
    assert not (tmp_path / "cache").exists() and not (tmp_path / "into").exists()


def test_build_where_the_cache_cannot_be_written(tmp_path):
    place = file(tmp_path / "file")
    run = build(tmp_path, XDG_CACHE_HOME=str(place))
    assert run.returncode == 1
    message = f"cannot write in the cache folder {place}/caffe-split; XDG_CACHE_HOME=DIR names another place for it"
    assert run.stderr.splitlines() == [f"tools/build_caffe: {message}"]
    assert not (tmp_path / "into").exists()


def test_build_without_a_network(tmp_path):
    path = stub(tmp_path / "bin", "apt-get", "exit 100")
    run = build(tmp_path, PATH=path, CAFFE_SOURCE="")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "no mirror this machine's apt knows has the source of Caffe" in line
    assert not (tmp_path / "into").exists()
    assert not list((tmp_path / "cache/caffe-split").glob("building-*"))


def test_build_that_is_stopped_leaves_nothing_half_made(tmp_path):
    """cmake is stopped in the middle; the next build starts afresh."""
    tree = tmp_path / "tree"
    for edit in load("caffe_edits").EDITS:
        place = file(tree / edit.file) if not (tree / edit.file).exists() else tree / edit.file
        place.write_text(place.read_text() + edit.find + "\n")
    for folder in ("include/caffe/layers", "include/caffe/util", "src/caffe/layers", "src/caffe/test"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    file(tree / "CMakeLists.txt")
    path = stub(tmp_path / "bin", "cmake", f"echo $PATH >{tmp_path}/path; touch {tmp_path}/started; exec sleep 60")
    command = [ROOT / "tools" / "build_caffe", "--into", tmp_path / "into"]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": path, "CAFFE_SOURCE": str(tree)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None, process.communicate()
        os.killpg(process.pid, 15)
        process.communicate()
    assert process.returncode == 143
    # cmake looks beside the programs of the PATH, and a conda environment may come first there.
    assert (tmp_path / "path").read_text().startswith("/usr/sbin:/usr/bin:/sbin:/bin:")
    assert not (tmp_path / "into").exists()
    assert not list((tmp_path / "cache/caffe-split").glob("building-*"))
    stub(tmp_path / "bin", "cmake", "exit 1")
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 1 and "tools/build_caffe: cmake failed; see " in run.stderr.splitlines()[-1]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_a_real_nvcc_tells_its_folders():
    nvcc = cuda_find.describe(Path(shutil.which("nvcc")))
    assert cuda_find.find_header("cuda_runtime.h", nvcc) is not None
    assert cuda_find.find_library("cudart", nvcc.version[0], nvcc) is not None
    assert {"80", "90"} <= set(cuda_toolkit.known_architectures(nvcc))
