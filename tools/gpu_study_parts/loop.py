"""The study's loop: trainings side by side on one device; splits, and tests of trained nets, in processes beside it.

A training has the folder `sSEED/ARM`: `split.npz` and the snapshot that its children begin from, `checkpoint.npz` while
it is under way, `result.json` at its end. The same command goes on from what is there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import gpu_study_parts.check as check
import gpu_study_parts.split as nets
from gpu_study_parts.arms import Schedule, arms_of
from gpu_study_parts.images import Data, Way, draws_of
from gpu_study_parts.log import train_log
from gpu_study_parts.run import Run
from gpu_study_parts.start import BASELINE, start_weights
from gpu_study_parts.training import State, Training

CHECKPOINT_EVERY, SHOW_EVERY = 60.0, 10.0  # seconds
Key = tuple  # (seed, arm)


@dataclass(frozen=True)
class Asked:
    """What is trained, and how: `together` trainings at once, up to `until` (by time.perf_counter), `batch` images an
    iteration. `tests` is an .npz with the test images and labels."""

    folder: Path
    schedule: Schedule
    seeds: Sequence[int]
    together: int
    until: float
    tests: Path
    batch: int = 128


class Loop:
    def __init__(self, asked: Asked, way: Way, data: Data, say) -> None:
        self.asked, self.way, self.data, self.say = asked, way, data, say
        self.schedule, self.rates = asked.schedule, asked.schedule.rates()
        self.arms = {(seed, arm.name): arm for seed in asked.seeds for arm in arms_of(seed)}
        self.running: list[Training] = []
        self.results: dict[Key, dict] = {}
        self.failed: dict[Key, str] = {}
        self.facts: dict[Key, dict] = {}
        self.draws: dict[int, torch.Tensor] = {}
        # Under way in processes beside: nets made to be trained, split snapshots kept, trained nets tested.
        self.made: dict[Key, Future] = {}
        self.kept: dict[Key, Future] = {}
        self.checks: dict[Key, Future] = {}
        start = {
            "mp_context": multiprocessing.get_context("spawn"),
            "initializer": check.set_up,
            "initargs": (str(asked.folder),),
        }
        self.splitters, self.checkers = ProcessPoolExecutor(2, **start), ProcessPoolExecutor(1, **start)
        # So that they start now, and have imported what they need when they are needed.
        for _ in range(2):
            self.splitters.submit(nets.cost_of, BASELINE / nets.NET)
        self.checkers.submit(check.warm, way.device.type)
        os.chdir(asked.folder)

    def close(self) -> None:
        for pool in (self.splitters, self.checkers):
            pool.shutdown(wait=False, cancel_futures=True)

    def run(self) -> bool:
        """Train all; whether all is done."""
        self._take_over()
        shown = 0.0
        # A run whose split could not be kept has failed, trains on, and has a result.
        while len(self.results.keys() | self.failed.keys()) < len(self.arms):
            self._gather()
            self._fill()
            moved = False
            for training in list(self.running):
                moved |= training.poll()
                self._keep_now_and_then(training)
            now = time.perf_counter()
            if now > self.asked.until:
                self._stop()
                break
            if now - shown > SHOW_EVERY:
                shown = now
                listed = ", ".join(f"s{one.key[0]} {one.key[1]} {one.at}" for one in self.running)
                self.say(f"{len(self.results)}/{len(self.arms)} done; {listed}")
            if not moved:
                if not (self.running or self.made or self.kept or self.checks):
                    break  # what is left waits for one that failed
                time.sleep(0.0002 if self.running else 0.01)
        return len(self.results) == len(self.arms)

    def _folder(self, key: Key) -> Path:
        return Path(f"s{key[0]}") / key[1]

    def _take_over(self) -> None:
        """What an earlier run of this command has done."""
        for key in self.arms:
            folder = self._folder(key)
            if (folder / "result.json").exists():
                self.results[key] = json.loads((folder / "result.json").read_text(encoding="utf-8"))

    # -- beginning trainings

    def _fill(self) -> None:
        """Begin what there is room for, in the order of seeds; have nets made a little ahead."""
        busy = {one.key for one in self.running} | set(self.made) | set(self.checks)
        for key, arm in self.arms.items():
            if len(self.running) + len(self.made) >= self.asked.together + 2:
                break
            idle = key not in busy and key not in self.results and key not in self.failed
            if idle and (arm.parent is None or (self._folder((key[0], arm.parent)) / "split.npz").exists()):
                self.made[key] = self._make(key)
        for key in list(self.arms):
            if len(self.running) >= self.asked.together:
                break
            if key in self.made and self.made[key].done():
                try:
                    self.running.append(self._begin(key, *self.made.pop(key).result()))
                except Exception as error:  # one that cannot be trained stops none of the others
                    self._fails(key, "it cannot be trained", error)

    def _make(self, key: Key) -> Future:
        """The net that `key` trains: a future of program, weights and facts."""
        arm, folder = self.arms[key], self._folder(key)
        if arm.parent is not None:
            parent = self._folder((key[0], arm.parent))
            return self.splitters.submit(nets.make_net, str(parent), str(folder), arm.cut, key[0])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / nets.NET).write_bytes((BASELINE / nets.NET).read_bytes())
        text = (BASELINE / nets.SOLVER).read_text(encoding="utf-8")
        (folder / nets.SOLVER).write_text(self.schedule.solver(text, str(folder)), encoding="utf-8")
        weights = start_weights(folder / nets.NET, key[0])
        done: Future = Future()
        facts = {"cost": nets.cost_of(folder / nets.NET)}
        done.set_result((nets.read_program(folder / nets.NET, weights), weights, facts))
        return done

    def _begin(self, key: Key, program, weights, facts) -> Training:
        seed, folder = key[0], self._folder(key)
        self.facts[key] = facts
        (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        if seed not in self.draws:
            drawn = draws_of(seed, self.schedule.total, self.asked.batch)
            self.draws[seed] = torch.as_tensor(drawn).to(self.way.device)
        run = Run(self.way, program, weights, self.data, self.draws[seed], self.rates, tests=self.schedule.tests)
        if (folder / "checkpoint.npz").exists():
            with np.load(folder / "checkpoint.npz") as state:
                # Past its split without a split snapshot its children could never begin.
                if int(state["now"][0]) < self.schedule.split or (folder / "split.npz").exists():
                    run.restore(state)
        run.capture(self.schedule.unroll)
        return Training(key, self.arms[key], run, self.schedule, self._split, self._end)

    # -- what comes of them

    def _split(self, training: Training, state: State) -> None:
        """Have the split snapshot kept, and what TPM saw."""
        s, run = self.schedule, training.run
        scores = run.watch.scores(state, s.window, s.interval)
        folder = str(self._folder(training.key))
        self.kept[training.key] = self.splitters.submit(nets.keep_split, folder, s.split, run.blobs(state), scores)

    def _end(self, training: Training, state: State) -> None:
        """Write the log, and have the trained net folded and tested."""
        key, s = training.key, self.schedule
        folder = self._folder(key)
        self.running.remove(training)
        self._keep(training, state)
        accuracies = [float(value) for value in state["tested"][1:, 1]]
        self.facts[key].update(
            seconds=round(time.perf_counter() - training.started, 2), best=max(accuracies), last_test=accuracies[-1]
        )
        blobs, device = training.run.blobs(state), self.way.device.type
        self.checks[key] = self.checkers.submit(check.check, str(folder), s.total, blobs, str(self.asked.tests), device)

    def _gather(self) -> None:
        """Take in what the processes beside have done."""
        for key in [key for key, future in self.kept.items() if future.done()]:
            error = self.kept.pop(key).exception()
            if error is not None:
                self._fails(key, "its split snapshot cannot be kept", error)
        for key in [key for key, future in self.checks.items() if future.done()]:
            try:
                found = self.checks.pop(key).result()
            except Exception as error:  # its training is done, and stays
                self._fails(key, "it cannot be tested", error)
                continue
            result = {"seed": key[0], "arm": key[1], **self.facts[key], **found}
            self.results[key] = result
            nets.write_json(self._folder(key) / "result.json", result)
            (self._folder(key) / "checkpoint.npz").unlink(missing_ok=True)
            self.say(
                f"seed {key[0]} {key[1]}: final {found['final']:.4f}, folded {found['folded']:.4f} "
                f"({found['differ']} images differ), best {result['best']:.4f}"
            )

    def _fails(self, key: Key, what: str, error: BaseException) -> None:
        self.failed[key] = f"{what}: {type(error).__name__}: {error}"
        self.say(f"seed {key[0]} {key[1]}: {self.failed[key]}")

    # -- keeping

    def _keep_now_and_then(self, training: Training) -> None:
        now = time.perf_counter()
        if now - training.kept > CHECKPOINT_EVERY and not training.given_all:
            training.kept = now
            training.snapshot(lambda state: self._keep(training, state))

    def _keep(self, training: Training, state: State) -> None:
        """Where a training stands, and its log so far."""
        folder = self._folder(training.key)
        nets.save(folder / "checkpoint.npz", state)
        log = train_log(self.schedule, state, str(folder), training.key[1])
        (folder / "train.log").write_text(log, encoding="utf-8")

    def _stop(self) -> None:
        """The time is over: keep where every training stands, and what is being tested for a while yet."""
        self.say(f"the time is over; keeping where {len(self.running)} trainings stand")
        for training in list(self.running):
            training.drain()
            if training in self.running:
                self._keep(training, training.state())
        patience = time.perf_counter() + 15
        while (self.kept or self.checks) and time.perf_counter() < patience:
            self._gather()
            time.sleep(0.05)
