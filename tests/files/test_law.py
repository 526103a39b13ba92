"""Nothing else in the package writes, renames or removes: all of it goes through `caffe_split.files`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import caffe_split

PACKAGE = Path(caffe_split.__file__).parent
# Of os and shutil, and of pathlib's paths. `replace` is also a method of text, which takes two arguments.
FUNCTIONS = {
    "os": [
        "open",
        "remove",
        "unlink",
        "rename",
        "renames",
        "replace",
        "mkdir",
        "makedirs",
        "rmdir",
        "removedirs",
        "link",
        "symlink",
        "truncate",
        "mkfifo",
        "mknod",
    ],
    "shutil": ["copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree", "make_archive"],
    "np": ["save", "savez", "savez_compressed", "savetxt"],
    "tempfile": ["mkdtemp", "mkstemp", "mktemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory"],
}
METHODS = [
    "tofile",
    "savefig",
    "write_text",
    "write_bytes",
    "mkdir",
    "rmdir",
    "unlink",
    "rename",
    "touch",
    "symlink_to",
    "hardlink_to",
    "link_to",
]
# They write into what `caffe_split.files` has given them.
ALLOWED = {
    "data/store.py": ["lmdb.open"],  # new_folder's
    "formats/weights/hdf5.py": [".File"],  # replacing's
    "formats/weights/features.py": ["h5py.File"],  # replacing's
    "engine/layers/output.py": ["h5py.File"],  # replacing's
    # Streams in memory, and those of `atomic_open`.
    "backends/installed.py": ["np.save"],
    "backends/inputs.py": ["np.savez"],
    "plot/draw.py": [".savefig"],
    "plot/kernels.py": [".savefig"],
    "plot/picture_file.py": [".savefig"],
    "backends/caffe/timing.py": ["tempfile.TemporaryFile"],  # has no name, and is gone when it is closed
    # A temporary file that is memory for several processes, and loses its name as soon as all have it.
    "engine/kernels/board.py": ["open", "os.unlink", "tempfile.mkstemp"],
    "cli/__init__.py": ["os.open"],  # /dev/null, for output that nobody reads
}


def writes(source: str) -> list[str]:
    """The calls in a program that write, rename or remove."""
    return [
        said for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) for said in [_write(node)] if said
    ]


def _write(call: ast.Call) -> str:
    function = call.func
    mode = next((word.value for word in call.keywords if word.arg == "mode"), None)
    if isinstance(function, ast.Name) and function.id == "open":
        mode = mode or (call.args[1] if len(call.args) > 1 else None)
        return "open" if _is_for_writing(mode) else ""
    if not isinstance(function, ast.Attribute):
        return ""
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    name = f"{owner}.{function.attr}"
    if owner in FUNCTIONS:
        return name if function.attr in FUNCTIONS[owner] else ""
    if name == "lmdb.open":
        return "" if any(word.arg == "readonly" for word in call.keywords) else name
    if function.attr == "File" or name == "io.open":
        return name if _is_for_writing(mode or (call.args[1] if len(call.args) > 1 else None), False) else ""
    if function.attr == "open":
        return ".open" if any(_is_for_writing(each, False) for each in (mode, *call.args[:2])) else ""
    if function.attr == "replace" and len(call.args) == 1 and not call.keywords:
        return ".replace"
    return f".{function.attr}" if function.attr in METHODS else ""


def _is_for_writing(mode: ast.expr | None, unknown: bool = True) -> bool:
    """Whether a mode may write; `unknown` where it is worked out."""
    if mode is None:
        return False
    found = [node.value for node in ast.walk(mode) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(set(text) & set("wax+") and len(text) <= 3 for text in found) or (unknown and not found)


def test_no_module_writes_by_itself() -> None:
    modules = {
        str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "files"
    }
    assert len(modules) > 250
    found = {name: sorted(set(writes(path.read_text(encoding="utf-8")))) for name, path in modules.items()}
    assert {name: calls for name, calls in found.items() if calls} == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "open(p, 'wb' if fresh else 'ab')",
        "Path(p).open('x')",
        "tarfile.open(p, 'w')",
        "p.write_text('')",
        "os.replace(a, b)",
        "p.replace(q)",
        "a.rename(b)",
        "shutil.rmtree(p)",
        "p.mkdir()",
        "tempfile.mkdtemp()",
        "lmdb.open(p)",
        "h5py.File(p, 'w')",
        "os.open(p, flags)",
        "os.mkfifo(p)",
        "shutil.copyfileobj(a, b)",
        "np.savez(p, a=b)",
        "figure.savefig(p)",
        "array.tofile(p)",
    ],
)
def test_the_law_sees_every_way_to_write(line: str) -> None:
    assert writes(line)


@pytest.mark.parametrize(
    "line", ["open(p, 'rb')", "text.replace('a', 'b')", "p.open('rb')", "Image.open(p)", "lmdb.open(p, readonly=True)"]
)
def test_the_law_lets_reading_be(line: str) -> None:
    assert not writes(line)
