"""What tools/build_caffe installs works by itself, and its edits say when they do not fit."""

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CAFFE = Path(sys.prefix) / "bin" / "caffe"
built = pytest.mark.skipif(not CAFFE.exists(), reason="run ./tools/build_caffe first")


def load_edits():
    spec = importlib.util.spec_from_file_location("caffe_edits", ROOT / "tools" / "caffe_edits.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    # It stands beside the tables of edits that it imports.
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


caffe_edits = load_edits()
Edit, EditError = caffe_edits.Edit, caffe_edits.EditError


def python(code, **env):
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd="/")


@built
@pytest.mark.caffe
def test_caffe_runs_with_an_empty_environment(tmp_path):
    run = subprocess.run([CAFFE, "--version"], env={}, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, ["caffe", "version", "1.0.0"])


@built
@pytest.mark.caffe
@pytest.mark.parametrize("tool", ["net_proto_text", "net_proto_binary", "solver_proto_text"])
def test_tools_run_with_an_empty_environment(tool):
    run = subprocess.run([CAFFE.parent / f"upgrade_{tool}"], env={}, capture_output=True, text=True)
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
    run = python("import caffe, caffe.proto.caffe_pb2, caffe_split.proto.schema; print('both')")
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
    assert subprocess.run([tmp_path / "into/bin/caffe", "--version"], env={}).returncode == 0


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


def edit(find="old();\n", put="new();\n"):
    return Edit("some-edit", "a.cpp", find, put, "the reason of it")


def test_edit_replaces_its_place(tmp_path):
    (tmp_path / "a.cpp").write_text("before\nold();\nafter\n")
    caffe_edits.apply_edits(tmp_path, [edit()])
    assert (tmp_path / "a.cpp").read_text() == "before\nnew();\nafter\n"


@pytest.mark.parametrize("text, times", [("nothing\n", 0), ("old();\nold();\n", 2)])
def test_edit_must_find_its_place_exactly_once(tmp_path, text, times):
    (tmp_path / "a.cpp").write_text(text)
    message = rf"some-edit: .* found {times} times in a\.cpp.*the reason of it.*old\(\);"
    with pytest.raises(EditError, match=message):
        caffe_edits.apply_edits(tmp_path, [edit()])
    assert (tmp_path / "a.cpp").read_text() == text


def test_no_file_is_written_when_one_edit_fails(tmp_path):
    (tmp_path / "a.cpp").write_text("old();\n")
    with pytest.raises(EditError, match=r"no-file: the tree has no b\.cpp"):
        caffe_edits.apply_edits(tmp_path, [edit(), Edit("no-file", "b.cpp", "x", "y", "why")])
    assert (tmp_path / "a.cpp").read_text() == "old();\n"


@pytest.mark.parametrize("find, put", [("old();\n", "new();\n"), ("old();\n", "old();\nnew();\n")])
def test_edited_tree_is_left_as_it_is(tmp_path, find, put):
    (tmp_path / "a.cpp").write_text("before\nold();\nafter\n")
    caffe_edits.apply_edits(tmp_path, [edit(find, put)])
    once = (tmp_path / "a.cpp").read_text()
    caffe_edits.apply_edits(tmp_path, [edit(find, put)])
    assert (tmp_path / "a.cpp").read_text() == once == f"before\n{put}after\n"


def test_every_edit_is_documented():
    docs = (ROOT / "docs" / "caffe.md").read_text()
    more = [Edit(*row) for row in (*caffe_edits.CUDA_EDITS, *caffe_edits.OPENCV_EDITS)]
    edits = [*caffe_edits.EDITS, *more]
    assert [e.name for e in edits if f"`{e.name}`" not in docs] == []
    assert len({e.name for e in edits}) == len(edits)
    # What an edit puts is how a tree that has it already is known.
    assert all(e.reason and e.put for e in edits)


def test_edits_are_listed_with_their_reasons():
    command = [sys.executable, ROOT / "tools" / "caffe_edits.py", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cuda-clock-rate  src/caffe/common.cpp\n    CUDA 13 has dropped" in listed
    assert listed.count("\n") == 2 * sum(
        map(len, (caffe_edits.EDITS, caffe_edits.CUDA_EDITS, caffe_edits.OPENCV_EDITS))
    )


def test_edits_script_ends_with_one_line(tmp_path):
    command = [sys.executable, ROOT / "tools" / "caffe_edits.py", tmp_path, ROOT / "layers"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "edit total-bytes-limit: the tree has no src/caffe/util/io.cpp" in run.stderr


@pytest.mark.parametrize(
    "make, message",
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
@pytest.mark.parametrize("script, words", [("build_caffe", ["--print-source"]), ("environment", [])])
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


def stub(folder, name, script):
    """A program of that name that comes first in PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_environment(path, *prefix, script=ROOT / "tools" / "environment", words=(), **env):
    return subprocess.run(
        [*prefix, script, *words],
        env={"PATH": f"{path}:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
    )


@built
def test_environment_that_is_ready_is_left_alone(tmp_path):
    run = run_environment(tmp_path, PYTHONPATH="/nowhere", PYTHONHOME="/nowhere", VIRTUAL_ENV="/nowhere")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_new_environment_keeps_how_caffe_was_built(tmp_path):
    """Of an old .venv, made in another place, two files and nothing else. No index: it ends where packages come in."""
    for name in ("tools/environment", "setup.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    kept = tmp_path / ".venv/share/caffe-split"
    kept.mkdir(parents=True)
    (tmp_path / ".venv/lib/old").mkdir(parents=True)
    (tmp_path / ".venv/lib/old/link").symlink_to(ROOT)
    for name in ("build-flags", "build-source", "build-key"):
        (kept / name).write_text(f"{name}\n")
    env = {**os.environ, "PIP_NO_INDEX": "1"}
    done = subprocess.run([tmp_path / "tools/environment", "--no-caffe"], env=env, capture_output=True, text=True)
    assert "making .venv" in done.stdout and "pip install failed" in done.stderr
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        name: f"{name}\n" for name in ("build-flags", "build-source")
    }
    assert not (tmp_path / ".venv/lib/old").exists() and (tmp_path / ".venv/bin/python").exists()
    assert (ROOT / "tools/environment").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_another_apt_at_work_is_waited_for(tmp_path):
    stub(tmp_path, "dpkg-query", "exit 1")
    stub(
        tmp_path, "apt-get",
        f'echo "$3" >>{tmp_path}/calls; case "$3$(wc -l <{tmp_path}/calls)" in\n'
        'update1) echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt)"; exit 100 ;;\n'
        "install*) exit 1 ;; esac",
    )  # fmt: skip
    run = run_environment(tmp_path)
    assert (tmp_path / "calls").read_text().split() == ["update", "update", "install"]
    assert "apt-get install failed" in run.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_missing_packages_are_installed_by_root(tmp_path):
    stub(tmp_path, "dpkg-query", "echo 'installed cmake'; exit 1")
    stub(tmp_path, "apt-get", f'echo "$DEBIAN_FRONTEND $*" >>{tmp_path}/calls; exec test "$3" = update')
    run = run_environment(tmp_path)
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update == "noninteractive -o DPkg::Lock::Timeout=600 update"
    assert "install -y --no-install-recommends" in install
    assert " liblmdb-dev" in install and " cmake" not in install
    assert run.returncode == 1
    assert run.stderr.strip() == "tools/environment: apt-get install failed; its last lines are above"


def test_missing_packages_are_listed_in_one_line_without_root():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        stub(path, "dpkg-query", "exit 1")
        stub(path, "sudo", "exit 1")
        # Another user may not see into the folder of this checkout.
        (path / "checkout" / "tools").mkdir(parents=True)
        script = Path(shutil.copy(ROOT / "tools" / "environment", path / "checkout" / "tools"))
        nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        run = run_environment(path, *nobody, script=script)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    packages = "apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 "
    assert line.startswith(f"tools/environment: needs root for: {packages}")


@built
@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_what_the_tests_look_through_is_wanted_and_not_needed(tmp_path):
    stub(tmp_path, "dpkg-query", '/usr/bin/dpkg-query "$@" | grep -v -e chromium -e xvfb')
    stub(tmp_path, "apt-get", f'echo "$*" >>{tmp_path}/calls; exit 1')
    run = run_environment(tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "") and not (tmp_path / "calls").exists()
    run = run_environment(tmp_path, words=["--tests"])
    assert run.returncode == 0 and run.stderr == ""
    assert "without chromium xvfb: the tests that need them will be skipped" in run.stdout
    update, *installs = (tmp_path / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert [line.split()[-1] for line in installs] == ["chromium", "xvfb"]


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as root with a false apt-get")
def test_flags_of_the_environment_go_together(tmp_path):
    """With false programs: which of our extras are installed, when PyTorch is, and that Caffe's packages are not."""
    checkout = tmp_path / "checkout"
    (checkout / "tools").mkdir(parents=True)
    script = Path(shutil.copy(ROOT / "tools" / "environment", checkout / "tools"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    version = subprocess.check_output(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    ).strip()
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "pip").write_text(f"#!{binaries}/python\n")
    calls = tmp_path / "calls"
    stub(
        binaries, "python",
        f'case "$*" in *sys.prefix*) echo "{checkout}/.venv {version}" ;; '
        f'*find_spec*) grep -q torch {calls} ;; *pip.__version__*) exit "${{OLD_PIP-0}}" ;; '
        f'*) echo "$*" >>{calls} ;; esac',
    )  # fmt: skip
    stub(tmp_path, "apt-get", f'echo "apt-get $*" >>{calls}; exit 1')
    screens = "python3-tk | xvfb | chromium"
    stub(tmp_path, "dpkg-query", f'for word; do case $word in {screens}) echo "installed $word" ;; esac; done')

    def run(*words, **env):
        calls.write_text("")
        done = run_environment(tmp_path, script=script, words=words, **env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return [re.search(r"\S+$", line)[0].replace(str(checkout), "") for line in calls.read_text().splitlines()]

    assert run("--no-caffe") == ["[digits,hdf5]"]
    assert run("--no-caffe") == []
    pytorch = "2.8.0" if version == "3.9" else "2.13.0"
    assert run("--no-caffe", "--torch", "--tests") == ["[test]", f"torch=={pytorch}+cpu"]
    assert run("--no-caffe") == run("--no-caffe", "--tests") == []
    with (checkout / "setup.py").open("a") as stream:
        stream.write("# changed\n")
    assert run("--no-caffe") == ["[test]"]
    with (checkout / "setup.py").open("a") as stream:
        stream.write("# changed again\n")
    assert run("--no-caffe", OLD_PIP="1") == ["pip", "[test]"]
    stub(tmp_path, "dpkg-query", "exit 1")
    assert run_environment(tmp_path, script=script, words=["--caffe"]).returncode == 2
    done = run_environment(tmp_path, script=script)
    assert done.returncode == 1 and "apt-get update failed" in done.stderr


def test_packages_are_listed_wherever_their_flag_stands(tmp_path):
    def listed(*words):
        done = run_environment(tmp_path, words=words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.split()

    plain = listed("--packages")
    assert {"cmake", "liblmdb-dev"} <= set(plain) and not any("opencv" in name for name in plain)
    with_opencv = listed("--packages", "--opencv")
    assert with_opencv == listed("--opencv", "--packages")
    assert with_opencv[: len(plain)] == plain and len(with_opencv) > len(plain)
    assert listed("--packages", "--tests", "--no-caffe") == listed("--no-caffe", "--tests", "--packages")
    assert listed("--packages", "--no-caffe", "--tests", "--torch") == [
        "ca-certificates", "python3", "python3-venv", "chromium", "xvfb", "python3-tk",
    ]  # fmt: skip
    done = run_environment(tmp_path, words=["--packages", "--opencv", "--no-caffe"])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--opencv is for a Caffe with OpenCV" in done.stderr
    done = run_environment(tmp_path, words=["--packages", "--opencvv", "--tests", "all"])
    assert done.returncode == 2 and done.stdout == ""
    assert "tools/environment: unknown: '--opencvv' 'all'\nusage: tools/environment [--no-caffe]" in done.stderr
