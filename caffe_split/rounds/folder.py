"""The folder of a loop: what was asked for, the marks of its finished steps, and the lock of who works in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_split import jsontext
from caffe_split.errors import CaffeSplitError
from caffe_split.files import locked, make_folder, write_atomic

PLAN, MARKS, LOCK = "plan.json", "done", "lock"
# Among the choices: whether the baseline is one that had been trained when the folder was begun.
ADOPTED = "adopted"
# Of the form of plan.json and of the marks.
VERSION = 1


@dataclass(frozen=True)
class LoopFolder:
    """A loop's folder `path`; nothing in it is trusted except what a mark in `done/` says is finished."""

    path: Path

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raises `CaffeSplitError` where the folder is another command's, or was begun with other choices or files.

        More rounds than before are no other choice: the loop goes on. Whether the baseline is adopted is none of the
        user's, see `adopted`.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise CaffeSplitError(f"{self.path} is a file; choose another --out.")
        if all(each.name == LOCK for each in self.path.iterdir()):
            return
        try:
            known = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
            version = known["multisplit"]
        except (OSError, ValueError, KeyError, TypeError):
            raise CaffeSplitError(
                f"{self.path} exists and was not made by `multisplit` (it has no {PLAN} that says so); nothing in it "
                "is touched. Choose another --out."
            ) from None
        if version != VERSION:
            raise CaffeSplitError(f"{self.path / PLAN}: of another version, {version}; choose another --out.")
        now = json.loads(jsontext.dumps(asked))
        first, given = ({os.path.realpath(path): path for path in each["inputs"]} for each in (known, now))
        for place in {**first, **given}:
            if place not in given:
                raise CaffeSplitError(f"{self.path} was begun with {first[place]}, too; give it, or another --out.")
            if place not in first:
                raise CaffeSplitError(
                    f"{self.path} was begun without {given[place]}; leave it out, or choose another --out."
                )
            if known["inputs"][first[place]] != now["inputs"][given[place]]:
                raise CaffeSplitError(f"{given[place]} has changed since {self.path} was begun; choose another --out.")
        before = _flat(known["choices"])
        for name, value in _flat(now["choices"]).items():
            if name != ADOPTED and before.get(name) != value:
                raise CaffeSplitError(
                    f"{self.path} was begun with {name} {_short(before.get(name))}, not {_short(value)}; give the "
                    "same, or choose another --out."
                )

    def adopted(self) -> bool | None:
        """Whether it was begun with a baseline that had been trained before; None where no plan says so."""
        try:
            found = json.loads((self.path / PLAN).read_text(encoding="utf-8"))["choices"][ADOPTED]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return bool(found)

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Write down what was asked for."""
        make_folder(self.path / MARKS)
        write_atomic(self.path / PLAN, (jsontext.dumps({"multisplit": VERSION, **asked}) + "\n").encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold its lock. Raises `CaffeSplitError` where another process does."""
        make_folder(self.path)
        try:
            with locked(self.path / LOCK):
                yield
        except BlockingIOError:
            raise CaffeSplitError(f"{self.path}: another multisplit is at work in it; wait for its end.") from None

    def result(self, step: str) -> dict[str, Any] | None:
        """What a finished step left; None where it has not finished."""
        path = self.path / MARKS / f"{step}.json"
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CaffeSplitError(f"{path}: cannot be read ({error}); remove it, and the step is done again.") from None
        return value

    def mark(self, step: str, value: Mapping[str, Any]) -> None:
        """Say that a step is finished: the last thing that it does."""
        write_atomic(self.path / MARKS / f"{step}.json", (jsontext.dumps(value) + "\n").encode())


def _flat(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The choices by name, those of a derivation among them."""
    return {**{name: value for name, value in choices.items() if name != "derive"}, **choices.get("derive", {})}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
