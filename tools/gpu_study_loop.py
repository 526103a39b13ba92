"""The study's loop: trainings side by side on one device, splits and tests of nets in processes beside it.

A training's state is in its folder `sSEED/ARM`: `split.npz` and the snapshot that its children begin from, `checkpoint.npz`
while it is under way, `result.json` at its end. The same command goes on from what is there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gpu_study_check as check
import gpu_study_split as nets
import numpy as np
import torch  # noqa: TID251
from gpu_study_arms import Arm, Schedule, arms_of
from gpu_study_device import Data, Run, Way, draws_of
from gpu_study_log import train_log
from gpu_study_start import BASELINE, start_weights

CHECKPOINT_EVERY = 60.0  # seconds
DEPTH = 2  # pieces of work that a training's stream holds at most


@dataclass(frozen=True)
class Asked:
    """What is trained, and how: `together` trainings at once, for `seconds` at most, `batch` images an iteration."""

    folder: Path
    schedule: Schedule
    seeds: Sequence[int]
    together: int
    seconds: float
    batch: int = 128


@dataclass
class Training:
    """One that is under way. `at` counts the iterations that its stream was given."""

    seed: int
    arm: Arm
    run: Run
    at: int
    tested_start: bool
    started: float
    waiting: deque = field(default_factory=deque)  # (event, what to do on the host when it has passed)
    saved: float = 0.0
    saving: bool = False
    ended: bool = False

    @property
    def key(self) -> tuple[int, str]:
        return self.seed, self.arm.name


class Loop:
    def __init__(self, asked: Asked, way: Way, data: Data, tests: Path, begun: float) -> None:
        self.asked, self.way, self.data, self.begun, self.tests = asked, way, data, begun, tests
        self.schedule = asked.schedule
        self.arms = {(seed, arm.name): arm for seed in asked.seeds for arm in arms_of(seed)}
        self.results: dict[tuple[int, str], dict] = {}
        self.facts: dict[tuple[int, str], dict] = {}
        self.running: list[Training] = []
        self.made: dict[tuple[int, str], Future] = {}  # nets that are being split, or wait to be trained
        self.checks: dict[tuple[int, str], Future] = {}
        self.kept: dict[tuple[int, str], Future] = {}  # split snapshots on their way to the disk
        self.failed: dict[tuple[int, str], str] = {}
        self.draws: dict[int, torch.Tensor] = {}
        self.rates = self.schedule.rates()
        context = multiprocessing.get_context("spawn")
        start = {"mp_context": context, "initializer": check.set_up, "initargs": (str(asked.folder), 2)}
        self.splitters = ProcessPoolExecutor(2, **start)
        self.checkers = ProcessPoolExecutor(1, **start)
        os.chdir(asked.folder)
        # So that they start now, and have imported what they need when they are needed.
        for _ in range(2):
            self.splitters.submit(nets.cost_of, BASELINE / nets.NET)
        self.checkers.submit(check.warm, "cuda" if way.device.type == "cuda" else "cpu")

    # -- files

    def folder(self, key: tuple[int, str]) -> Path:
        return Path(f"s{key[0]}") / key[1]

    def _have_baseline(self, key: tuple[int, str]) -> None:
        folder = self.folder(key)
        if not (folder / nets.SOLVER).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / nets.NET).write_bytes((BASELINE / nets.NET).read_bytes())
            text = (BASELINE / nets.SOLVER).read_text(encoding="utf-8")
            (folder / nets.SOLVER).write_text(self.schedule.solver(text, str(folder)), encoding="utf-8")

    def _take_over(self) -> None:
        """What an earlier run of this command has done."""
        for key in self.arms:
            folder = self.folder(key)
            if (folder / "result.json").exists():
                self.results[key] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            if (folder / "facts.json").exists():
                self.facts[key] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))

    # -- beginning a training

    def _may_begin(self, key: tuple[int, str]) -> bool:
        parent = self.arms[key].parent
        return parent is None or (self.folder((key[0], parent)) / "split.npz").exists()

    def _prepare(self, key: tuple[int, str]) -> None:
        """Have the net that `key` trains made, in a process beside."""
        arm, folder = self.arms[key], self.folder(key)
        if arm.parent is None:
            self._have_baseline(key)
            done: Future = Future()
            weights = start_weights(folder / nets.NET, key[0])
            done.set_result((nets.read_program(folder / nets.NET, weights), weights, {"cost": nets.cost_of(folder / nets.NET)}))
            self.made[key] = done
            return
        parent = str(self.folder((key[0], arm.parent)))
        self.made[key] = self.splitters.submit(nets.make_net, parent, str(folder), arm.cut, key[0])

    def _begin(self, key: tuple[int, str]) -> None:
        program, weights, facts = self.made.pop(key).result()
        folder = self.folder(key)
        self.facts[key] = facts
        (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        seed = key[0]
        if seed not in self.draws:
            drawn = draws_of(seed, self.schedule.total, self.asked.batch)
            self.draws[seed] = torch.as_tensor(drawn).to(self.way.device)
        run = Run(self.way, program, weights, self.data, self.draws[seed], self.rates, self.schedule.tests)
        at = 0
        if (folder / "checkpoint.npz").exists():
            with np.load(folder / "checkpoint.npz") as state:
                # Past its split without a split snapshot its children could never begin.
                if int(state["now"][0]) <= self.schedule.split or (folder / "split.npz").exists():
                    run.restore({name: state[name] for name in state.files})
                    at = int(state["now"][0])
        run.capture(self.schedule.unroll)
        tested = bool(int(run.test.cpu()[0]) > at // self.schedule.test_interval)
        now = time.perf_counter()
        self.running.append(Training(seed, self.arms[key], run, at, tested, now, saved=now))

    def _fill(self) -> None:
        """Begin what there is room for, in the order of seeds."""
        order = list(self.arms)
        for key in order:
            busy = {one.key for one in self.running} | set(self.made) | set(self.checks)
            if key in busy or key in self.results or key in self.failed:
                continue
            if len(self.running) + len(self.made) < self.asked.together + 2 and self._may_begin(key):
                self._prepare(key)
        for key in order:
            if len(self.running) >= self.asked.together:
                break
            if key in self.made and self.made[key].done():
                try:
                    self._begin(key)
                except Exception as error:  # noqa: BLE001 - one that cannot be trained stops none of the others
                    self.failed[key] = f"{type(error).__name__}: {error}"
                    print(f"{key[1]} of seed {key[0]} cannot be trained: {self.failed[key]}", flush=True)

    # -- going on with it

    def _event(self, training: Training, then=None) -> None:
        """Note where the stream stands; `then` is done on the host once it has come there."""
        if self.way.device.type != "cuda":
            if then is not None:
                then()
            return
        event = torch.cuda.Event()
        event.record(training.run.stream)
        training.waiting.append((event, then))

    def _snapshot(self, training: Training, then) -> None:
        """Copy the state on the device, and give it to `then` on the host when it is there."""
        run = training.run
        if self.way.device.type != "cuda":
            then({name: tensor.numpy() for name, tensor in run.state().items()})
            return
        with torch.cuda.stream(run.stream):
            state = run.state()
        self._event(training, lambda: then({name: tensor.cpu().numpy() for name, tensor in state.items()}))

    def _advance(self, training: Training) -> None:
        """Give the stream the next piece of work: up to the next sample, or the end."""
        s, run, at = self.schedule, training.run, training.at
        start, stop = s.window
        if at % s.test_interval == 0 and not training.tested_start:
            if at or float(run.gathered.cpu()[0]):
                run.do("test")
            else:
                # Before the first iteration a BatchNorm has seen nothing to normalise by.
                run.test.add_(1)
        training.tested_start = False
        if at == start:
            run.do("sample_first")
        elif start < at <= stop and (at - start) % s.interval == 0:
            run.do("sample")
        if at == s.split:
            self._snapshot(training, lambda state: self._keep_split(training, state))
        if at == s.total:
            self._snapshot(training, lambda state: self._end(training, state))
            return
        for _ in range(s.interval // s.unroll):
            if self.way.device.type == "cuda":
                run.do("steps" if s.unroll > 1 else "step")
            else:
                for _ in range(s.unroll):
                    run.do("step")
        training.at += s.interval
        now = time.perf_counter()
        if now - training.saved > CHECKPOINT_EVERY and not training.saving:
            training.saved, training.saving = now, True
            self._snapshot(training, lambda state: self._keep_checkpoint(training, state))
        self._event(training)

    def _keep_split(self, training: Training, state: Mapping[str, np.ndarray]) -> None:
        run, s = training.run, self.schedule
        scores = run.scores(state, s.window, s.interval)
        blobs = run.blobs(state)
        self.kept[training.key] = self.splitters.submit(
            nets.keep_split, str(self.folder(training.key)), s.split, blobs, scores
        )

    def _keep_checkpoint(self, training: Training, state: Mapping[str, np.ndarray]) -> None:
        training.saving = False
        nets.save(self.folder(training.key) / "checkpoint.npz", state)

    def _end(self, training: Training, state: Mapping[str, np.ndarray]) -> None:
        """Write the log, and have the trained net tested."""
        self.running.remove(training)
        folder, s = self.folder(training.key), self.schedule
        nets.save(folder / "checkpoint.npz", state)
        (folder / "train.log").write_text(train_log(s, state, str(folder), training.arm.name), encoding="utf-8")
        self.facts[training.key]["seconds"] = round(time.perf_counter() - training.started, 2)
        device = "cuda" if self.way.device.type == "cuda" else "cpu"
        self.checks[training.key] = self.checkers.submit(
            check.check, str(folder), s.total, training.run.blobs(state), str(self.tests), device
        )
        self.facts[training.key]["accuracies"] = [float(value) for value in state["tested"][1:, 1]]

    def _finish(self) -> None:
        """Take in what the processes beside have done."""
        for key in [key for key, future in self.kept.items() if future.done()]:
            error = self.kept.pop(key).exception()
            if error is not None:
                print(f"{key[1]} of seed {key[0]}: its split snapshot cannot be kept: {error}", flush=True)
        for key in [key for key, future in self.checks.items() if future.done()]:
            future = self.checks.pop(key)
            folder = self.folder(key)
            try:
                found = future.result()
            except Exception as error:  # noqa: BLE001 - its training is done, and stays
                self.failed[key] = f"its test: {type(error).__name__}: {error}"
                print(f"{key[1]} of seed {key[0]}: {self.failed[key]}", flush=True)
                continue
            accuracies = self.facts[key].get("accuracies", [])
            result = {"seed": key[0], "arm": key[1], **found, "best": max(accuracies, default=float("nan")),
                      "last_test": accuracies[-1] if accuracies else None, **self.facts[key]}  # fmt: skip
            self.results[key] = result
            (folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
            (folder / "checkpoint.npz").unlink(missing_ok=True)
            print(f"[{self.elapsed():6.1f}s] seed {key[0]} {key[1]}: final {found['final']:.4f}, folded "
                  f"{found['folded']:.4f} ({found['differ']} images differ), best {result['best']:.4f}", flush=True)  # fmt: skip

    def elapsed(self) -> float:
        return time.perf_counter() - self.begun

    def _poll(self) -> bool:
        """Do on the host what the streams have come to; whether anything was given or done."""
        moved = False
        for training in list(self.running):
            while training.waiting and training.waiting[0][0].query():
                _, then = training.waiting.popleft()
                moved = True
                if then is not None:
                    then()
            pieces = sum(1 for _, then in training.waiting if then is None)
            if training in self.running and pieces < DEPTH and training.at <= self.schedule.total:
                if training.at == self.schedule.total and training.ended:
                    continue
                training.ended = training.at == self.schedule.total
                self._advance(training)
                moved = True
        return moved

    def run(self) -> bool:
        """Train all; whether all is done, and not only the time over."""
        self._take_over()
        shown = 0.0
        while len(self.results) + len(self.failed) < len(self.arms):
            self._finish()
            self._fill()
            moved = self._poll()
            if self.elapsed() > self.asked.seconds:
                self._stop()
                return False
            if time.perf_counter() - shown > 10:
                shown = time.perf_counter()
                self._show()
            if not moved:
                waits = not self.running and not any(future.done() for future in self.made.values())
                if waits and not (self.made or self.checks or self.kept):
                    break  # what is left waits for one that failed
                time.sleep(0.01 if waits else 0.0002)
        return len(self.results) == len(self.arms)

    def _show(self) -> None:
        listed = ", ".join(f"s{one.seed} {one.arm.name} {one.at}" for one in self.running)
        print(f"[{self.elapsed():6.1f}s] {len(self.results)}/{len(self.arms)} done; {listed}", flush=True)

    def _stop(self) -> None:
        """The time is over: keep where every training stands."""
        print(f"[{self.elapsed():6.1f}s] the time is over; keeping where {len(self.running)} trainings stand", flush=True)
        for training in list(self.running):
            if self.way.device.type == "cuda":
                training.run.stream.synchronize()
            while training.waiting:
                _, then = training.waiting.popleft()
                if then is not None:
                    then()
            if training in self.running:
                state = {name: tensor.cpu().numpy() for name, tensor in training.run.state().items()}
                nets.save(self.folder(training.key) / "checkpoint.npz", state)
                log = train_log(self.schedule, state, str(self.folder(training.key)), training.arm.name)
                (self.folder(training.key) / "train.log").write_text(log, encoding="utf-8")
        patience = time.perf_counter() + 15
        while (self.kept or self.checks) and time.perf_counter() < patience:
            self._finish()
            time.sleep(0.05)

    def close(self) -> None:
        for pool in (self.splitters, self.checkers):
            pool.shutdown(wait=False, cancel_futures=True)


def describe(asked: Asked, way: Way) -> dict[str, Any]:
    """What the study's folder remembers of how it is trained: another run of it must be of the same."""
    return {"scale": str(asked.schedule.scale), "batch": asked.batch, "way": way.name,
            "arms": [asdict(arm) for arm in arms_of(0)]}  # fmt: skip
