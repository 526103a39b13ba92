"""Reading encoded images as a training does, and the decoder alone on the same cores, in turns.

`python -m benchmarks.bench_feed [--records 300] [--side 256] [--workers N] [--rounds 20] [--before CHECKOUT]
[--repeats 5]`. The records are JPEGs in an LMDB in the system's cache. The reader gives batches, cropped and mirrored;
the decoder is Pillow's, a thread for each core, over the same bytes in memory. They take turns in
one process, a thousand images at a time, and the ratios are medians over pairs of turns: of the time, and of the
processor time of all threads, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# Images of a turn, and of a batch. A turn begins and ends with all threads idle: of a short one that is a good part.
IMAGES, BATCH = 1000, 50
NET = """layer {{ name: "data" type: "Data" top: "data" top: "label"
  data_param {{ source: "{folder}" batch_size: {batch} backend: LMDB }}
  transform_param {{ crop_size: {crop} mirror: true }} }}"""


def pictures(count: int, side: int) -> Iterator[bytes]:
    """Records with JPEGs: broad shapes with a little noise, about a byte for seven values, as photographs take."""
    from caffe_split.formats.prototxt import caffe_pb2

    for index in range(count):
        rng = np.random.default_rng(index)
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        values = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + rng.integers(
            -12, 13, (side, side, 3)
        )
        stream = io.BytesIO()
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        yield caffe_pb2.Datum(data=stream.getvalue(), encoded=True, label=index % 1000).SerializeToString()


def decode(encoded: bytes) -> None:
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()


def until_quiet() -> float:
    """Wait until the threads of this process have been idle for 80 ms. Returns the time at which they became so."""
    since, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - since < 0.08:
        time.sleep(0.004)
        now = time.process_time()
        # The loop itself takes a few microseconds.
        if now - used > 0.0003:
            since = time.perf_counter()
        used = now
    return since


def turn(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and processor seconds of the work, with what it leaves to other threads."""
    until_quiet()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return until_quiet() - wall, time.process_time() - cpu


def contestant(folder: Path, words: argparse.Namespace) -> None:
    """Print the medians: milliseconds an image, for the decoder and the reader, and the ratio, each of both times."""
    from caffe_split import engine
    from caffe_split.engine.cores import usable_cores
    from caffe_split.engine.device import keep_memory
    from caffe_split.formats import prototxt
    from caffe_split.formats.weights.datum import read_datum

    keep_memory()
    try:
        from caffe_split.engine.data.workers import set_workers

        set_workers(words.workers)
    except ImportError:
        pass  # A checkout from before there were workers.
    with lmdb.open(str(folder), readonly=True, lock=False) as store, store.begin() as records:
        files = [read_datum(bytes(value)).encoded for _, value in records.cursor()]
    text = NET.format(folder=folder, batch=BATCH, crop=words.side - 29)
    feeder = engine.Net(prototxt.parse(text, kind="net"), "TRAIN").layers[0].feeder
    files = list(itertools.islice(itertools.cycle(files), IMAGES))
    with ThreadPoolExecutor(usable_cores()) as pool:

        def decode_some() -> None:
            list(pool.map(decode, files))

        def read_some() -> None:
            for _ in range(IMAGES // BATCH):
                feeder.next()

        decode_some(), read_some()
        pairs = [(turn(decode_some), turn(read_some)) for _ in range(words.rounds)]
    for index in range(2):
        found = [[row[who][index] for row in pairs] for who in range(2)]
        medians = [statistics.median(each) / IMAGES * 1000 for each in found]
        print(*medians, statistics.median(one / other for one, other in zip(*found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--workers", type=int, help="of the reader; default: as many as a training takes")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="processes of each checkout, in turns")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.folder:
        contestant(words.folder, words)
        return
    from caffe_split.data.store import write_records

    print(
        f"{words.workers or 'the default'} workers, images of {words.side}x{words.side}, load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "store")
        write_records(folder, pictures(words.records, words.side))
        roots = {"reader": ROOT} | ({"before": words.before.resolve()} if words.before else {})
        rows: dict[tuple[str, str], list[list[float]]] = {}
        for _ in range(words.repeats):
            for what, root in roots.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)]
                environment = {**os.environ, "PYTHONPATH": str(root)}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                for kind, line in zip(("time", "processor time"), done.stdout.splitlines()):
                    rows.setdefault((kind, what), []).append(list(map(float, line.split())))
        for (kind, what), found in rows.items():
            alone, ours, ratio = map(statistics.median, zip(*found))
            print(f"  {kind:14} {what} {ours:.3f} ms an image, decoder {alone:.3f}: {ratio:.2f} of the decoder")


if __name__ == "__main__":
    main()
