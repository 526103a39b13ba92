#!/usr/bin/env python3
"""Turn an unmodified tree of BVLC Caffe into the one we build: our edits, then our layers.

Every edit is a row of EDITS with its reason, or of caffe_edits_cuda.py where a build with CUDA or OpenCV alone needs
it. An edit whose place is not found exactly once stops the build by name: a tree that differs there needs a look, not
a guess. `--list` prints the edits and their reasons and needs no tree.

usage: caffe_edits.py [--cuda] [--opencv] TREE LAYERS | caffe_edits.py --list
"""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caffe_edits_cuda import CUDA_EDITS, OPENCV_EDITS

PROTO = "src/caffe/proto/caffe.proto"


class EditError(Exception):
    """An edit or a layer that does not fit the tree; the message is one line for the user."""


@dataclass(frozen=True)
class Edit:
    """Replace `find` by `put` in `file`; `reason` is what an error and docs/caffe.md say about it."""

    name: str
    file: str
    find: str
    put: str
    reason: str


SIX = '''class six:
    """The parts of the package six used below, on Python 3."""
    iteritems = staticmethod(lambda mapping: iter(mapping.items()))
    itervalues = staticmethod(lambda mapping: iter(mapping.values()))
    next = staticmethod(next)
'''

EDITS = (
    Edit(
        "total-bytes-limit",
        "src/caffe/util/io.cpp",
        "SetTotalBytesLimit(kProtoReadBytesLimit, 536870912)",
        "SetTotalBytesLimit(kProtoReadBytesLimit)",
        "protobuf 3.21 has dropped the second argument, a limit for warnings",
    ),
    Edit(
        "tpm-field",
        PROTO,
        "  optional TileParameter tile_param = 138;\n",
        "  optional TileParameter tile_param = 138;\n  optional TPMParameter tpm_param = 2017;\n",
        "gives layers the options of our TPM layer; the number is far from those BVLC and forks count up to",
    ),
    Edit(
        "pycaffe-lazy-images",
        "python/caffe/io.py",
        "import skimage.io\nfrom scipy.ndimage import zoom\nfrom skimage.transform import resize\n",
        "# scikit-image and SciPy are imported by the functions that use them.\n",
        "import caffe must not need scikit-image and SciPy: they serve the image functions alone",
    ),
    Edit(
        "pycaffe-load-image",
        "python/caffe/io.py",
        "    img = skimage.img_as_float(skimage.io.imread(filename, as_grey=not color)).astype(np.float32)\n",
        "    import skimage.io\n"
        "    img = skimage.img_as_float(skimage.io.imread(filename, as_gray=not color)).astype(np.float32)\n",
        "imports scikit-image where it is used; its option as_grey is called as_gray since version 0.19",
    ),
    Edit(
        "pycaffe-resize",
        "python/caffe/io.py",
        "            im_std = (im - im_min) / (im_max - im_min)\n",
        "            from skimage.transform import resize\n            im_std = (im - im_min) / (im_max - im_min)\n",
        "imports scikit-image where it is used",
    ),
    Edit(
        "pycaffe-zoom",
        "python/caffe/io.py",
        "        scale = tuple(np.array(new_dims, dtype=float) / np.array(im.shape[:2]))\n",
        "        from scipy.ndimage import zoom\n"
        "        scale = tuple(np.array(new_dims, dtype=float) / np.array(im.shape[:2]))\n",
        "imports SciPy where it is used",
    ),
    Edit(
        "pycaffe-six",
        "python/caffe/pycaffe.py",
        "import six\n",
        SIX,
        "one package less to install: Python 2 is gone, and three functions are all that was used of it",
    ),
    Edit(
        "net-spec-six",
        "python/caffe/net_spec.py",
        "import six\n",
        SIX,
        "as for pycaffe.py",
    ),
    Edit(
        "pycaffe-tobytes",
        "python/caffe/io.py",
        "arr.tostring()",
        "arr.tobytes()",
        "numpy 2.3 has dropped the old name",
    ),
    Edit(
        "pycaffe-frombuffer",
        "python/caffe/io.py",
        "np.fromstring(datum.data, dtype=np.uint8)",
        "np.frombuffer(bytearray(datum.data), dtype=np.uint8)",
        "numpy 2.3 has dropped reading bytes by fromstring; a bytearray keeps the result writable",
    ),
    Edit(
        "rpath",
        "cmake/Misc.cmake",
        "  set(CMAKE_INSTALL_RPATH ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR})\n",
        '  set(CMAKE_INSTALL_RPATH "\\$ORIGIN/../lib" ${CAFFE_CUDA_RPATH})\n',
        "programs find libcaffe beside themselves, wherever the built tree is copied to, and CUDA's libraries",
    ),
    Edit(
        "pycaffe-rpath",
        "python/CMakeLists.txt",
        'set_target_properties(pycaffe PROPERTIES PREFIX "" OUTPUT_NAME "_caffe")',
        'set_target_properties(pycaffe PROPERTIES PREFIX "" OUTPUT_NAME "_caffe"\n'
        '                      INSTALL_RPATH "\\$ORIGIN/../../..;${CAFFE_CUDA_RPATH_PYTHON}")',
        "pycaffe finds libcaffe from lib/pythonX.Y/site-packages/caffe with no environment variable, and CUDA's",
    ),
)

# Where the files of a layer go, by what their names end with.
PLACES = {
    "_compat.hpp": "include/caffe/util",
    ".hpp": "include/caffe/layers",
    ".cpp": "src/caffe/layers",
    ".cu": "src/caffe/layers",
}


def edited(text: str, edit: Edit) -> str:
    """`text` with the edit made. A tree that has it already (a distribution's, say) is left as it is."""
    if text.count(edit.put) == 1 and (edit.find in edit.put or edit.find not in text):
        return text
    count = text.count(edit.find)
    if count != 1:
        raise EditError(
            f"edit {edit.name}: its place is found {count} times in {edit.file}, expected once "
            f"({edit.reason}). Looked for: {edit.find.strip().splitlines()[0].strip()}"
        )
    return text.replace(edit.find, edit.put)


def apply_edits(tree: Path, edits: Iterable[Edit] = EDITS) -> None:
    """Check every edit, then write: a tree is edited wholly or not at all."""
    texts: dict = {}
    for edit in edits:
        if edit.file not in texts:
            try:
                texts[edit.file] = (tree / edit.file).read_text(encoding="utf-8")
            except FileNotFoundError:
                raise EditError(f"edit {edit.name}: the tree has no {edit.file} ({edit.reason})") from None
        texts[edit.file] = edited(texts[edit.file], edit)
    for file, text in texts.items():
        (tree / file).write_text(text, encoding="utf-8")


def add_layers(tree: Path, layers: Path) -> None:
    """Copy our layers into the tree and append their options to Caffe's schema."""
    fragments = []
    for path in sorted(layers.iterdir()):
        if path.suffix == ".proto":
            fragments.append(path.read_text(encoding="utf-8"))
            continue
        place = next((folder for end, folder in PLACES.items() if path.name.endswith(end)), None)
        if place is None:
            raise EditError(f"layers/{path.name}: only .hpp, .cpp, .cu and .proto belong in Caffe's tree")
        if path.name.startswith("test_"):
            place = "src/caffe/test"
        if (tree / place / path.name).exists():
            raise EditError(f"layers/{path.name}: Caffe's tree has {place}/{path.name} already")
        shutil.copyfile(path, tree / place / path.name)
    with open(tree / PROTO, "a", encoding="utf-8") as schema:
        for fragment in fragments:
            schema.write("\n" + fragment)


def main(argv: list) -> int:
    words = argv[1:]
    edits = list(EDITS)
    for flag, more in (("--cuda", CUDA_EDITS), ("--opencv", OPENCV_EDITS)):
        if flag in words or words == ["--list"]:
            edits += [Edit(*row) for row in more]
    folders = [word for word in words if not word.startswith("--")]
    if words == ["--list"]:
        for edit in edits:
            print(f"{edit.name}  {edit.file}\n    {edit.reason}")
        return 0
    if len(folders) != 2 or set(words) - {*folders, "--cuda", "--opencv"}:
        print(__doc__.strip().splitlines()[-1], file=sys.stderr)
        return 2
    try:
        apply_edits(Path(folders[0]), edits)
        add_layers(Path(folders[0]), Path(folders[1]))
    except (EditError, OSError, UnicodeDecodeError) as error:
        print(f"tools/caffe_edits.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
