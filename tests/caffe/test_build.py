"""What tools/build_caffe installs works by itself; it takes turns, and keeps and tells what it is built of."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import BARE, stub

ROOT = Path(__file__).resolve().parents[2]
CAFFE = Path(sys.prefix) / "bin" / "caffe"
built = pytest.mark.skipif(not CAFFE.exists(), reason="run ./tools/build_caffe first")


def python(code, **env):
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd="/")


@built
@pytest.mark.caffe
def test_caffe_runs_with_an_empty_environment(tmp_path):
    run = subprocess.run([CAFFE, "--version"], env=BARE, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, ["caffe", "version", "1.0.0"])


@built
@pytest.mark.caffe
@pytest.mark.parametrize("tool", ["net_proto_text", "net_proto_binary", "solver_proto_text"])
def test_tools_run_with_an_empty_environment(tool):
    run = subprocess.run([CAFFE.parent / f"upgrade_{tool}"], env=BARE, capture_output=True, text=True)
    assert "Usage: " in run.stderr


@built
@pytest.mark.caffe
def test_import_caffe_needs_neither_scikit_image_nor_scipy_nor_six():
    block = "import sys\nfor name in ('skimage', 'scipy', 'six'): sys.modules[name] = None\n"
    run = python(block + "import caffe; print('TPM' in list(caffe.layer_type_list()))")
    assert run.stdout.strip() == "True", run.stderr


@built
@pytest.mark.caffe
def test_pycaffe_image_functions_import_what_they_use():
    run = python(
        "import numpy as np, caffe\n"
        "print(caffe.io.resize_image(np.arange(32, dtype=np.float32).reshape(4, 4, 2), (8, 8)).shape)"
    )
    assert run.stdout.strip() == "(8, 8, 2)", run.stderr
    run = python("import sys; sys.modules['skimage'] = None\nimport caffe; caffe.io.load_image('x.png')")
    assert "skimage" in run.stderr.splitlines()[-1]


@built
@pytest.mark.caffe
def test_pycaffe_forward_and_net_spec(tmp_path):
    run = python(
        "import caffe, numpy as np\n"
        "from caffe import layers as L\n"
        "n = caffe.NetSpec()\n"
        "n.data = L.DummyData(shape=dict(dim=[2, 3]), data_filler=dict(type='constant', value=2))\n"
        "n.ip = L.InnerProduct(n.data, num_output=1, weight_filler=dict(type='constant', value=1))\n"
        f"open({str(tmp_path / 'net.prototxt')!r}, 'w').write(str(n.to_proto()))\n"
        f"net = caffe.Net({str(tmp_path / 'net.prototxt')!r}, caffe.TEST)\n"
        "print(net.forward()['ip'].tolist())"
    )
    assert run.stdout.strip() == "[[6.0], [6.0]]", run.stderr


@built
@pytest.mark.caffe
def test_caffe_and_our_library_live_in_one_process():
    run = python("import caffe, caffe.proto.caffe_pb2, caffe_split.formats.prototxt.caffe_pb2; print('both')")
    assert run.stdout.strip() == "both", run.stderr


@built
@pytest.mark.caffe
@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_pycaffe_messages_are_those_of_the_schema(implementation):
    run = python(
        "import pickle, caffe.proto.caffe_pb2 as pb\n"
        "from google.protobuf import text_format\n"
        'net = text_format.Parse(\'layer { name: "a" type: "TPM" tpm_param { interval: 3 } }\', pb.NetParameter())\n'
        "blob = pb.BlobProto(data=[1, 2], shape=pb.BlobShape(dim=[2]))\n"
        "print(pickle.loads(pickle.dumps(net)).layer[0].tpm_param.interval, pb.TEST, pb.PoolingParameter.MAX,\n"
        "      pb.BlobProto.FromString(blob.SerializeToString()) == blob, len(blob.SerializeToString()))",
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation,
    )
    # Packed: two floats in ten bytes, the shape in five.
    assert run.stdout.split() == ["3", "1", "0", "True", "15"], run.stderr


@built
@pytest.mark.caffe
def test_source_corpus_is_where_print_source_says():
    run = subprocess.run([ROOT / "tools" / "build_caffe", "--print-source"], capture_output=True, text=True)
    folder = Path(run.stdout.strip())
    assert folder == Path(sys.prefix) / "share" / "caffe"
    assert "message TPMParameter" in (folder / "src/caffe/proto/caffe.proto").read_text()
    assert (folder / "models/bvlc_alexnet/train_val.prototxt").exists()
    assert (folder / "examples/cifar10/cifar10_quick_train_test.prototxt").exists()
    assert (folder / "tools/extra/parse_log.py").exists()


def test_source_corpus_of_another_folder_is_that_folders(tmp_path):
    def print_source(cwd, into):
        command = [ROOT / "tools" / "build_caffe", "--print-source", "--into", into]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True)

    run = print_source(tmp_path, "other build")
    assert (run.returncode, run.stdout) == (1, "")
    place = rf"{tmp_path}/other\ build"
    message = f"no Caffe is installed in {tmp_path}/other build: run ./tools/build_caffe --into {place}"
    assert run.stderr == f"tools/build_caffe: {message}\n"
    (tmp_path / "other build/share/caffe").mkdir(parents=True)
    run = print_source(tmp_path, "other build")
    assert (run.returncode, run.stdout) == (0, f"{tmp_path}/other build/share/caffe\n")


def build_caffe(tmp_path, *words, **env):
    """The command and environment of tools/build_caffe with a cache of its own, into tmp_path/into."""
    command = [ROOT / "tools" / "build_caffe", "--into", tmp_path / "into", *words]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **env}
    if env.get("CAFFE_SOURCE") is None:
        env.pop("CAFFE_SOURCE", None)
    return {"args": command, "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def cached_build(tmp_path, mark, *words, **env):
    """The installed Caffe in that cache, as if built with these options; its key. Files in share say `mark`."""
    run = subprocess.run(**build_caffe(tmp_path, "--print-key", *words, **env), check=True)
    (key,) = run.stdout.splitlines()
    folder = tmp_path / "cache/caffe-split" / key
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    package = f"lib/{version}/site-packages/caffe"
    shutil.copytree(Path(sys.prefix) / package, folder / package)
    (folder / "bin").mkdir()
    shutil.copy2(Path(sys.prefix) / "bin/caffe", folder / "bin")
    for library in Path(sys.prefix, "lib").glob("libcaffe.so*"):
        shutil.copy2(library, folder / "lib")
    (folder / "share/marks").mkdir(parents=True)
    for number in range(20):
        (folder / f"share/marks/{number}").write_text(mark)
    return key


@built
@pytest.mark.caffe
def test_two_builds_into_one_folder_take_turns(tmp_path):
    """Both have to wait for this test's lock of the folder; then all that is there is of the one that says so."""
    keys = {cached_build(tmp_path, "plain", "--cpu"): "plain"}
    keys[cached_build(tmp_path, "other", "--cpu", CXXFLAGS="-DOTHER")] = "other"
    assert len(keys) == 2
    (tmp_path / "into").mkdir()
    lock = os.open(tmp_path / "into", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    both = [subprocess.Popen(**build_caffe(tmp_path, "--cpu", **env)) for env in ({}, {"CXXFLAGS": "-DOTHER"})]
    for process in both:
        assert "installing Caffe into" in process.stdout.readline()
        assert "another Caffe is being installed into" in process.stdout.readline()
    assert list((tmp_path / "into").iterdir()) == []
    os.close(lock)
    for process in both:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "") and "Caffe is built and installed" in out
    mark = keys[(tmp_path / "into/share/caffe-split/build-key").read_text().strip()]
    assert {path.read_text() for path in (tmp_path / "into/share/marks").iterdir()} == {mark}
    assert subprocess.run([tmp_path / "into/bin/caffe", "--version"], env=BARE).returncode == 0


@built
@pytest.mark.caffe
@pytest.mark.parametrize("part", ["caffe", "pycaffe"])
def test_a_caffe_that_does_not_work_is_not_said_to_be_installed(tmp_path, part):
    folder = tmp_path / "cache/caffe-split" / cached_build(tmp_path, "broken", "--cpu")
    if part == "caffe":
        stub(folder / "bin", "caffe", "echo no such library >&2; exit 127")
    else:
        (next(folder.glob("lib/*/site-packages/caffe")) / "__init__.py").write_text("import no_such_module\n")
    done = subprocess.run(**build_caffe(tmp_path, "--cpu"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    said = {"caffe": "does not start: no such library", "pycaffe": "No module named 'no_such_module'"}
    assert said[part] in done.stderr
    assert not (tmp_path / "into/share/caffe-split/build-key").exists()


@built
@pytest.mark.caffe
def test_own_source_is_kept_until_another_is_asked_for(tmp_path):
    own = tmp_path / "own"
    (own / "src/caffe/proto").mkdir(parents=True)
    for name in ("CMakeLists.txt", "src/caffe/proto/caffe.proto"):
        (own / name).write_text("# mine\n")
    key = cached_build(tmp_path, "own", CAFFE_SOURCE=str(own))
    assert key != cached_build(tmp_path, "BVLC's", CAFFE_SOURCE="")

    def run(*words, mark, **env):
        env = {"CAFFE_SOURCE": None, **env}
        done = subprocess.run(**build_caffe(tmp_path, *words, **env))
        assert (tmp_path / "into/share/marks/0").read_text() == mark, done
        assert done.returncode == 0 or done.stderr.count("\n") == 1
        return done.stdout if done.returncode == 0 else done.stderr

    assert "the last time" not in run(mark="own", CAFFE_SOURCE=str(own))
    kept = f"the source is {own}, as the last time; for another, give CAFFE_SOURCE=DIR-or-tarball"
    assert kept in run(mark="own") and kept in run("--cpu", mark="own")
    # A change of the tree is one of the source.
    with (own / "CMakeLists.txt").open("a") as stream:
        stream.write("# more\n")
    assert run("--print-key", mark="own").strip() not in ("", key)
    shutil.rmtree(own)
    said = run(mark="own")
    assert f"{own}, is gone" in said and f"Caffe is built and installed ({key})" in said
    (tmp_path / "into/share/caffe-split/build-key").unlink()
    assert "installing Caffe" in run(mark="own")
    message = f"tools/build_caffe: Caffe must be built again, and its source {own} is gone: give CAFFE_SOURCE="
    assert run(mark="own", CXXFLAGS="-DOTHER").startswith(message)
    assert f"the source is that of BVLC; it was {own} the last time" in run(mark="BVLC's", CAFFE_SOURCE="")
    assert "source" not in run(mark="BVLC's")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist: give the folder or tarball of a Caffe tree"),
        (lambda path: path.mkdir(), "is no Caffe tree: it has no CMakeLists.txt or no src/caffe/proto/"),
        (lambda path: path.write_text("text"), "is neither a folder nor a tar archive"),
    ],
)
def test_wrong_caffe_source_is_one_line(tmp_path, make, message):
    make(tmp_path / "own")
    for given in ("own", tmp_path / "own"):  # relative to where the user stands, too
        run = subprocess.run(
            [ROOT / "tools" / "build_caffe"],
            env={**os.environ, "CAFFE_SOURCE": str(given)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 1
        assert len(run.stderr.splitlines()) == 1
        assert f"CAFFE_SOURCE={tmp_path / 'own'} {message}" in run.stderr


@built
@pytest.mark.parametrize(("script", "words"), [("build_caffe", ["--print-source"]), ("environment", [])])
def test_scripts_find_their_checkout_where_cd_speaks(script, words):
    """With CDPATH set, cd prints the folder that it found by it."""
    env = {**os.environ, "CDPATH": ".:/"}
    run = subprocess.run([f"tools/{script}", *words], env=env, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (f"{sys.prefix}/share/caffe\n" if words else "")


def test_wrong_use_is_told():
    run = subprocess.run([ROOT / "tools" / "build_caffe", "--nonsense"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "usage: tools/build_caffe" in run.stderr


def test_failures_in_scripts_are_not_hidden():
    """`set -e` does not see the status of a process substitution: a list would be short or empty without a word."""
    scripts = [path for path in (ROOT / "tools").iterdir() if path.is_file() and "bash" in path.read_text()[:40]]
    scripts += (ROOT / "tools").glob("*.sh")
    assert len(scripts) >= 8
    assert [path.name for path in scripts if "<(" in path.read_text()] == []


@pytest.mark.parametrize("broken", ["list of packages", "versions of packages"])
def test_a_key_that_cannot_be_made_is_a_failure(tmp_path, broken):
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "layers", tmp_path / "layers")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    stub(tmp_path / ".venv/bin", "python", f'exec {sys.executable} "$@"')
    stub(tmp_path / "tools", "environment", 'case "$*" in *--packages*) echo coreutils; exit $LISTED ;; esac')
    stub(tmp_path, "dpkg-query", 'echo "coreutils 9.1-1"; exit $ASKED')
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LISTED": "0", "ASKED": "0"}
    command = [tmp_path / "tools/build_caffe", "--print-key", "--cpu"]
    assert subprocess.run(command, env=env, capture_output=True).returncode == 0
    env["LISTED" if broken == "list of packages" else "ASKED"] = "3"
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (3, "")
