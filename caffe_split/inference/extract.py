"""Features: blobs of a net for every record of its data, or for images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from caffe_split.backends.choose import choose_backend
from caffe_split.backends.protocol import Session
from caffe_split.errors import CaffeSplitError, WrongUseError, expect, expect_count
from caffe_split.files import (
    PathLike,
    check_parent,
    free_name,
    make_folder,
    remove_file,
    rename_new,
    sha256,
    write_atomic,
)
from caffe_split.formats.weights.features import need_h5py
from caffe_split.inference.classify import PLAIN
from caffe_split.inference.feature_files import FORMS, check_form, convert, file_names
from caffe_split.inference.given import DEFAULTS, GivenNet, RunOptions, check_net, data_set, open_net, run_net
from caffe_split.inference.images import ImageInput, Preprocessing, find_images
from caffe_split.inference.rows import GrowingRows
from caffe_split.inference.unfinished import JOB, alone, read_job, take_up, write_job
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.table import record_for
from caffe_split.manifest import write_manifest
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

_LIST = "images.txt"


@dataclass(frozen=True)
class Extracted:
    """Where features are: the folder `out`, its `files`, and how many `rows` each has.

    notes: what of the net was not computed, and why; and what its data layers do at random.
    """

    out: Path
    files: tuple[str, ...]
    rows: int
    notes: tuple[str, ...] = ()


def _silent(_done: int, _rows: int) -> None:
    return


def extract(
    net: PathLike,
    weights: PathLike,
    blobs: Sequence[str],
    out: PathLike,
    *,
    form: str = "npy",
    iterations: int | None = None,
    images: Sequence[PathLike] = (),
    preprocessing: Preprocessing = PLAIN,
    options: RunOptions = DEFAULTS,
    say: Callable[[int, int], None] = _silent,
) -> Extracted:
    """Write blobs of a net into the new folder `out`, a row per record of its data set, or per image.

    `form` "npy" gives a file per blob, "hdf5" one file `features.h5` with a data set per blob, "lmdb" an LMDB per blob
    of Datum records with float_data. Without `iterations` (batches) every record comes once. `images` are files and
    folders, for a deploy net of one input, prepared as `preprocessing` says; `images.txt` then names the image of each
    row. `options` say how the net is run, and `say` is given the rows that are done, and all.

    Until all rows are there they are in `out`.unfinished: the same call goes on where another one was stopped.

    Raises:
        CaffeSplitError: `out` exists, a blob is not there or has no row per record, data or weights do not fit, or
            `out`.unfinished is of another extraction.

    >>> import os, tempfile
    >>> import numpy as np
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "net.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "DummyData" top: "data"
    ...         dummy_data_param { shape { dim: 2 dim: 3 } data_filler { value: 1 } } }
    ... layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
    ...         inner_product_param { num_output: 4 bias_term: false } }''')
    >>> cs.write_weights(weights, {"ip": [np.ones((4, 3))]})
    >>> found = cs.extract(net, weights, ["ip"], os.path.join(folder, "features"), iterations=3)
    >>> np.load(os.path.join(found.out, "ip.npy")).shape, found.files, found.rows
    ((6, 4), ('ip.npy',), 6)
    """
    expect(options, RunOptions, "RunOptions(...) as options")
    if iterations is not None:
        expect_count(iterations, "iterations")
    target = Path(out)
    names = list(dict.fromkeys(blobs))
    if form not in FORMS:
        raise CaffeSplitError(f"form is {form!r}; expected one of {', '.join(FORMS)}.")
    if form == "hdf5":
        need_h5py()
    check_parent(target)
    if os.path.lexists(target):
        raise CaffeSplitError(
            f"{target} exists; nothing is overwritten. Choose another --out ({free_name(target)} is free)."
        )
    given = open_net(net, options)
    _check_blobs(given, names)
    check_net(given, weights, options)
    source = _Source(given, [Path(path) for path in images], preprocessing, iterations)
    job = {
        "net": sha256(given.path),
        "weights": sha256(weights),
        "state": asdict(given.state),
        "blobs": names,
        "form": form,
        "engine": choose_backend(options.engine).name,
        "rows": source.rows,
        "batch": source.batch,
        "images": source.described(),
        "preprocessing": _as_json(preprocessing) if images else None,
    }
    work = target.with_name(target.name + ".unfinished")
    files = file_names(names, ".npy")
    notes: tuple[str, ...] = ()
    with alone(work):
        if not take_up(work, job):
            paths = {name: work / file for name, file in files.items()}
            growing = GrowingRows(paths, source.batch)
            shapes = {} if source.input is None else {source.input.name: (source.batch, *source.input.shape)}

            def opened(skip: int) -> contextlib.AbstractContextManager[Session]:
                return run_net(given, weights, options, names, shapes=shapes, skip=0 if images else skip)

            def begin(there: Mapping[str, Sequence[int]]) -> None:
                check_form({name: there[name] for name in names}, form)
                make_folder(work)
                write_job(work, job)

            try:
                notes = _run(source, growing, names, opened, begin, say)
            finally:
                growing.close()
            written = convert(work, paths, form)
            write_job(work, {**job, "written": written})
        done = read_job(work)["written"]
        for file in files.values():
            if file not in done:
                remove_file(work / file)
        if images:
            write_atomic(work / _LIST, b"".join(os.fsencode(path) + b"\n" for path in source.images))
        write_manifest(work, [given.path, Path(weights)], done + ([_LIST] if images else []), job)
        try:
            rename_new(work, target)
        except FileExistsError:
            raise CaffeSplitError(
                f"{target} has appeared while this command ran; it stays as it is. What was extracted is in {work}."
            ) from None
        # Not before: a process that is killed here leaves what the next one takes up.
        remove_file(target / JOB)
    return Extracted(target, tuple(done), source.rows, notes)


def _check_blobs(given: GivenNet, names: Sequence[str]) -> None:
    there = list(dict.fromkeys(top for layer in given.layers for top in layer.tops))
    lacking = [name for name in names if name not in there]
    if lacking or not names:
        what = f"no blob '{lacking[0]}'" if lacking else "no blob is asked for"
        raise CaffeSplitError(f"{given.path}: {what}; it has {', '.join(there)}.")


def _as_json(preprocessing: Preprocessing) -> dict[str, object]:
    """What was asked for, as an unfinished folder keeps it."""
    found = asdict(preprocessing)
    other = found.pop("transform_of")
    return found if other is None else {**found, "transform_of": str(other)}


class _Source:
    """Where the records come from: the data layers of the net, or images.

    batch: how many come at a time. rows: how many there are. remembers: whether what the net makes of them depends on
    those before. notes: what its data layers do at random.
    """

    def __init__(self, net: GivenNet, images: list[Path], preprocessing: Preprocessing, iterations: int | None) -> None:
        self.remembers = any(record_for(layer).remembers(layer) for layer in net.layers)
        self.notes = [note for layer in net.layers for note in _drawn(layer, net.state.phase)]
        self.images: list[Path] = []
        self.input: ImageInput | None = None
        if images:
            if iterations is not None:
                raise WrongUseError("--iterations is for data layers; of --images each one comes once.")
            self.input = ImageInput(net, preprocessing)
            self.images = find_images(images)
            self.batch, self.rows = self.input.batch, len(self.images)
            return
        if any(layer.type == "Input" for layer in net.layers):
            raise CaffeSplitError(f"{net.path}: a deploy net is given its data; give --images FILE or FOLDER.")
        data = data_set(net.layers)
        if data is None and iterations is None:
            raise CaffeSplitError(f"{net.path}: how many records it reads is not known; give --iterations N, batches.")
        self.batch = data.batch if data is not None else _first_axis(net)
        self.rows = data.records if data is not None and iterations is None else (iterations or 0) * self.batch

    def described(self) -> list[list[str | int]]:
        """The images, so that a later call knows them: path, bytes, time of the last change in nanoseconds."""
        return [[str(path), (found := path.stat()).st_size, found.st_mtime_ns] for path in self.images]

    def forward(self, session: Session, start: int) -> dict[str, np.ndarray]:
        """The blobs of the next batch, whose first row is `start`."""
        if self.input is None:
            return dict(session.forward().blobs)
        values = [self.input.read(path) for path in self.images[start : start + self.batch]]
        return dict(session.forward({self.input.name: self.input.whole(values)}).blobs)


# What data layers do at random: by type the options, and of each what follows.
_DRAWS = {
    "ImageData": ("image_data_param", "transform_param"),
    "HDF5Data": ("hdf5_data_param",),
    "Data": ("transform_param",),
}
_SO = {
    "shuffle": "the rows are not in the order of the data set",
    "rand_skip": "the rows begin at a record that is drawn at random",
    "mirror": "records are mirrored at random",
}


def _drawn(layer: Layer, phase: str) -> Iterator[str]:
    """What a data layer does at random, a sentence each."""
    if layer.type == "WindowData":
        yield f"{layer.where} draws its windows: the rows are in no order"
    for message in _DRAWS.get(layer.type, ()):
        options = Options.of(layer.message, message)
        for name, so in _SO.items():
            if options.has(name) and options.get(name):
                yield f"{layer.where} has {name}: {so}"
        if message == "transform_param" and options.get("crop_size") and layer.phase_in(phase) == "TRAIN":
            yield f"{layer.where} is in the TRAIN phase: records are cut to crop_size at random"


def _first_axis(net: GivenNet) -> int:
    """The batch of a net whose data set is not known: that of its first layer without bottoms."""
    layer = next(layer for layer in net.layers if not layer.bottoms)
    shape = infer_shapes([layer]).blobs.get(layer.tops[0], ()) if layer.tops else ()
    if not shape:
        raise CaffeSplitError(f"{net.path}: {layer.where}: its batch is not known.")
    return shape[0]


def _run(
    source: _Source,
    growing: GrowingRows,
    names: Sequence[str],
    opened: Callable[[int], contextlib.AbstractContextManager[Session]],
    begin: Callable[[Mapping[str, Sequence[int]]], None],
    say: Callable[[int, int], None],
) -> tuple[str, ...]:
    """Add the rows that are not there yet. Returns what of the net was not computed.

    `opened` gives the net, past that number of batches of its data; `begin` is called when it stands ready, with the
    shapes of its blobs. A net that remembers the batches before is run on those whose rows are there, too.
    """
    with opened(0 if source.remembers else growing.done // source.batch) as session:
        for name in names:
            if session.shapes[name][:1] != (source.batch,):
                raise CaffeSplitError(
                    f"blob '{name}' has shape {session.shapes[name]}, no row for each of the {source.batch} "
                    "records of a batch; such blobs are not extracted."
                )
        begin(session.shapes)
        growing.begin({name: (source.rows, *session.shapes[name][1:]) for name in names})
        say(growing.done, source.rows)
        for start in range(0, growing.done if source.remembers and growing.done < source.rows else 0, source.batch):
            source.forward(session, start)
        while growing.done < source.rows:
            values = source.forward(session, growing.done)
            growing.add({name: values[name][: source.rows - growing.done] for name in names})
            say(growing.done, source.rows)
        return (*source.notes, *(() if source.input is None else source.input.notes), *session.notes)
