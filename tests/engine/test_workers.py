"""Batches and errors are the same with any number of threads that decode them, and nothing waits for one that ended."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from tests.engine.runs import write_training
from tests.engine.source_files import encoded, here, image_data, layer, picture, write_records
from tests.support import start_process

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.cores import usable_cores
from caffe_split.engine.data import images as image_readers
from caffe_split.engine.data import windows
from caffe_split.engine.data.feeder import Feeder
from caffe_split.engine.data.workers import Run, count_for, set_workers
from caffe_split.engine.rows import Rows

STORE = 'data_param { source: "store" batch_size: 7 backend: LMDB }'
WINDOWS = """window_data_param { source: "windows" root_folder: "root/" batch_size: 6 fg_fraction: 0.5
  context_pad: 1 } transform_param { crop_size: 9 mirror: true mean_value: 12.5 }"""


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the number that a test sets; and no store is small enough to be read without a thread."""
    monkeypatch.setattr(image_readers, "_STAYS", 0)
    yield
    set_workers(None)


@pytest.fixture
def sources(listed: list[np.ndarray]) -> dict[str, str]:
    """A net for each kind of layer that decodes."""
    write_records([{"data": encoded(values, "PNG"), "encoded": True} for values in listed])
    raw = [{"channels": 3, "height": 12, "width": 10, "data": values.transpose(2, 0, 1).tobytes()} for values in listed]
    write_records(raw, "raw")
    lines = [f"# {index}\n1.png\n3\n12\n10\n2\n{index + 1} 0.9 1 2 8 9\n0 0.1 0 0 5 5\n" for index in range(3)]
    Path("windows").write_text("".join(lines))
    return {
        "store": layer("Data", f"{STORE} transform_param {{ crop_size: 6 mirror: true scale: 0.5 }}"),
        "raw": layer("Data", f"{STORE.replace('store', 'raw')} transform_param {{ crop_size: 5 mirror: true }}"),
        "list": image_data(4, "shuffle: true new_height: 9 new_width: 11", "mirror: true"),
        "one": image_data(1, "shuffle: true", "mirror: true"),
        "windows": layer("WindowData", WINDOWS),
    }


def late(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The function, with a pause of its own length before each call."""

    def call(*arguments: object) -> np.ndarray:
        time.sleep(random.random() * 0.003)
        return function(*arguments)

    return call


def test_batches_are_those_of_one_worker(sources: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where records are decoded in another order than theirs."""
    for module in (image_readers, windows):
        monkeypatch.setattr(module, "decode_image", late(module.decode_image))
    found = []
    for count in (1, 2, 5):
        set_workers(count)
        nets = {name: here(text, "TRAIN", seed=4) for name, text in sources.items()}
        found.append({name: [net.forward().blobs for _ in range(4)] for name, net in nets.items()})
    for name, batches in found[0].items():
        for others in found[1:]:
            for ours, theirs in zip(batches, others[name]):
                assert all(torch.equal(ours[blob], theirs[blob]) for blob in ours), name
        assert not torch.equal(batches[0]["data"], batches[1]["data"]), name


def test_batches_are_arrays_of_their_own(sources: dict[str, str]) -> None:
    """PyTorch warns of arrays that it must not write into, and does not know that nobody does."""
    for name, text in sources.items():
        batch = here(text, "TRAIN", seed=4).layers[0].feeder.next()
        assert all(array.flags.writeable for array in batch), name


@pytest.mark.parametrize(("count", "stays"), [(1, 0), (1, 1 << 20), (2, 0), (5, 0)])
def test_the_first_record_that_cannot_be_read_is_named(
    count: int, stays: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_readers, "_STAYS", stays)
    files = [encoded(picture(seed), "PNG") for seed in range(12)]
    for broken in (9, 11):
        files[broken] = b"no image"
    write_records([{"data": data, "encoded": True} for data in files])
    set_workers(count)
    net = here(layer("Data", STORE), "TRAIN")
    assert net.forward().blobs["label"].tolist() == list(range(7))
    for _ in range(3):
        # The batch is asked for again; none comes behind it.
        with pytest.raises(CaffeSplitError, match="store: record 9: an image that cannot be decoded"):
            net.forward()


class EndedError(BaseException):
    """What ends a thread and is no error of a program, as KeyboardInterrupt."""


@pytest.mark.parametrize("count", [1, 3])
def test_a_worker_that_ends_is_known_where_its_batch_is_wanted(
    count: int, sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_workers(count)
    net = here(sources["list"], "TRAIN")

    def end(_encoded: bytes, _color: bool | None) -> np.ndarray:
        raise EndedError

    monkeypatch.setattr(image_readers, "decode_image", end)
    for _ in range(2):
        with pytest.raises(EndedError):
            net.forward()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds threads by /proc")
def test_a_killed_worker_ends_the_training(sources: dict[str, str]) -> None:
    """A signal to one thread ends the whole process; the command says so, and leaves no process behind."""
    net = sources["list"] + (
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }'
        'layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 0 }'
    )
    solver = write_training(Path(), 'base_lr: 0.01 lr_policy: "fixed"', 10**6, net=net)
    text = re.sub("test_.*", "", solver.read_text())
    solver.write_text(text)
    many = usable_cores() + 2
    words = ["train", "solver.prototxt", "--engine", "torch", "--workers", str(many), "--log", "train.log"]
    child = start_process(
        [sys.executable, "-m", "caffe_split", *words], stderr=subprocess.PIPE, text=True, cwd=Path().resolve()
    )
    end = time.monotonic() + 60
    while "Iteration 5," not in (Path("train.log").read_text() if Path("train.log").is_file() else ""):
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.02)
    (task,) = filter(is_engine, Path("/proc").glob("[0-9]*/task"))
    threads = [int(thread.name) for thread in task.iterdir() if thread.name != task.parent.name]
    # That which reads, and those that decode.
    assert len(threads) > many
    assert f"Workers: {many}, more than the {usable_cores()} cores" in Path("train.log").read_text()
    os.kill(threads[-1], signal.SIGKILL)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 137 and "torch ended with status 137" in said
    assert not any(map(is_engine, Path("/proc").glob("[0-9]*/task")))


def is_engine(task: Path) -> bool:
    """Whether a process is a training in this folder."""
    try:
        trains = b"caffe_split.engine" in (task.parent / "cmdline").read_bytes()
        return trains and (task.parent / "cwd").readlink() == Path().resolve()
    except OSError:
        return False  # It has ended meanwhile, or is another's.


def test_workers_are_as_many_as_asked_for_or_one_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_for(decodes=False) == 1
    assert count_for(decodes=True) == min(4, usable_cores() + 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * usable_cores()))
    assert count_for(decodes=True) == 2
    set_workers(7)
    assert count_for(decodes=False) == count_for(decodes=True) == 7


@pytest.mark.parametrize("workers", [1, 3])
def test_the_threads_and_the_reader_of_a_feeder_end_with_it(workers: int) -> None:
    class Counting:
        def skip(self, count: int) -> None:
            pass

        def read(self, count: int) -> tuple[np.ndarray, ...]:
            return (np.zeros((count, 1)),)

    def transform(first: np.ndarray, number: int, rows: Rows, run: Run) -> np.ndarray:
        run(lambda index: None, len(first))
        return first + number

    before = set(threading.enumerate())
    reader = Counting()
    feeder = Feeder(reader, Rows(2, 0, 2), ahead=2, transform=transform, workers=workers)  # type: ignore[arg-type]
    assert [float(feeder.next()[0][0, 0]) for _ in range(5)] == [0, 1, 2, 3, 4]
    threads, gone = set(threading.enumerate()) - before, weakref.ref(reader)
    assert len(threads) == (1 if workers == 1 else 1 + workers)
    del feeder, reader
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads) and gone() is None
