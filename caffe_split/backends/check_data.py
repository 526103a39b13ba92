"""Are the data of a net there? Asked before anything runs: Caffe ends with a check that names no layer and no file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.data_sources import SOURCES, mean_files
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.options import Options
from caffe_split.net.state import NetState


def check_data(nets: Iterable[tuple[prototxt.Document, NetState]]) -> None:
    """Raises `CaffeSplitError` with all data sets, lists and mean files that are missing, each with its layer.

    Looked at are the layers that run in the state given with each net; paths are relative to the current directory.
    """
    missing = missing_data(nets)
    if missing:
        listed = "".join(f"\n  {said}" for said in missing)
        raise CaffeSplitError(
            f"data are missing, seen from {Path.cwd()} (paths in a prototxt are relative to the directory in which a "
            f"program is started):{listed}"
        )


def missing_data(nets: Iterable[tuple[prototxt.Document, NetState]]) -> list[str]:
    """What `check_data` would say of each data set, list and mean file that is missing, with its layer."""
    return list(dict.fromkeys(said for document, state in nets for said in _missing(document, state)))


def _missing(document: prototxt.Document, state: NetState) -> Iterator[str]:
    for layer in phase_layers(document, state):
        for said in _of_layer(layer):
            yield f"{document.filename}:{layer.field.line}: layer '{layer.name}': {said}"


def _of_layer(layer: Layer) -> Iterator[str]:
    if layer.type in SOURCES:
        name, what = SOURCES[layer.type]
        options = Options.of(layer.message, name)
        source = Path(str(options.get("source")))
        if layer.type == "Data":
            if not _is_data_set(source, str(options.get("backend"))):
                yield f"no {what} '{source}' ({options.get('backend')}{_instead(source)})"
        elif layer.type == "InfogainLoss" and not options.get("source"):
            return  # its third bottom is the matrix
        elif not source.is_file():
            yield f"no {what} '{source}'"
        elif layer.type == "HDF5Data":
            files = source.read_text(encoding="utf-8", errors="replace").split()
            absent = [file for file in files if not Path(file).is_file()]
            if absent or not files:
                yield f"'{source}' lists {_count(absent, 'HDF5 file')}" if absent else f"'{source}' lists no file"
        elif layer.type == "ImageData":
            yield from _first_image(source, str(options.get("root_folder")))
    for mean in mean_files(layer):
        if not Path(mean).is_file():
            yield f"no mean_file '{mean}'"


def _is_data_set(source: Path, backend: str) -> bool:
    return (source / ("data.mdb" if backend == "LMDB" else "CURRENT")).is_file()


def _instead(source: Path) -> str:
    if not source.exists():
        return ""
    return f"; there is a {'folder' if source.is_dir() else 'file'} of that name that is none"


def _first_image(listing: Path, root: str) -> Iterator[str]:
    """The first image is the one whose shape Caffe takes; it cannot start without it."""
    with open(listing, encoding="utf-8", errors="replace") as stream:
        first = next((line.strip() for line in stream if line.strip()), "")
    # As Caffe has it, all before the last blank is the name, and the label follows.
    name = first.rpartition(" ")[0] or first
    if not name:
        yield f"'{listing}' lists no image"
    elif not Path(root + name).is_file():
        yield f"no image '{root + name}', the first that '{listing}' lists"


def _count(names: list[str], what: str) -> str:
    if len(names) == 1:
        return f"the {what} '{names[0]}', which is not there"
    return f"{len(names)} {what}s that are not there, first '{names[0]}'"
