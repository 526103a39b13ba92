"""Pages whose examples run: their console sessions and Python blocks, held against what really comes out.

A page says in what it runs by a comment, `<!-- run: digits -->`, or `<!-- run: digits, slow -->` where that takes long.
In a block ```console a line `$ COMMAND` is run; one that ends in a backslash goes on in the next. What follows up to
the next command is what it prints, standard output first. `...` in an output stands for any text, on a line of its own
for any lines. A command that is to fail ends in `# fails`. Blocks ```python run in the same folder, one by one; a
block of another language that has `file=NAME` after it becomes that file. The folder of the world `digits` is made by
the commands that docs/commands.md gives its readers, below `<!-- world: digits -->`.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from caffe_split.backends import choose
from tests.support import ROOT, call_main, caught, inside

_MARK = re.compile(r"^<!-- run: (\w+)(, slow)? -->$", re.MULTILINE)
_WORLD = re.compile(r"^<!-- world: digits -->\n\n```\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
_FAILS = "# fails"


@dataclass
class Block:
    """Code of a page between fences, at `start` of its text. `said` is what each command of a console has printed.

    file: that it becomes; empty where it runs.
    """

    language: str
    file: str
    code: str
    start: int
    said: list[tuple[str, str]] = field(default_factory=list)

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command of a console as written, and what the page says that it prints."""
        if self.language != "console":
            return []
        found: list[tuple[str, str]] = []
        lines = iter(self.code.splitlines(keepends=True))
        for line in lines:
            if line.startswith("$ "):
                while line.endswith("\\\n"):
                    line += next(lines)
                found.append((line, ""))
            else:
                assert found, f"a console begins with its output: {line}"
                found[-1] = found[-1][0], found[-1][1] + line
        return found


@dataclass(frozen=True)
class RunPage:
    """A page that runs: its file, the world in which it does, and its blocks."""

    path: Path
    world: str
    slow: bool
    text: str
    blocks: list[Block]


def read_page(path: Path) -> RunPage | None:
    """The page of a file, or None where it has no mark."""
    text = path.read_text(encoding="utf-8")
    mark = _MARK.search(text)
    if mark is None:
        return None
    found_all = [Block(found[1], found[2] or "", found[3], found.start(3)) for found in _BLOCK.finditer(text)]
    blocks = [block for block in found_all if block.file or block.language in ("console", "python")]
    return RunPage(path, mark[1], bool(mark[2]), text, blocks)


def pages() -> list[RunPage]:
    """All pages that run."""
    found = map(read_page, [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))])
    return [page for page in found if page is not None]


def make_world(name: str, folder: Path) -> None:
    """Fill a folder with what a page takes for granted."""
    if name == "empty":
        return
    if name == "logs":
        make_logs(folder)
        return
    if name == "checkout":
        for part in ("caffe_split", "tests", "prototxt/digits", "tools"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
        return
    assert name == "digits", f"there is no world {name}"
    recipe = _WORLD.search((ROOT / "docs/commands.md").read_text(encoding="utf-8"))
    assert recipe is not None, "docs/commands.md does not say how to make the world digits"
    with torch_first():
        for line in recipe[1].replace("CHECKOUT", shlex.quote(str(ROOT))).splitlines():
            _run(line, folder)


def make_logs(folder: Path) -> None:
    """Thirty made-up trainings in runs/: rates and seeds; the highest rates end in nan, one log is that of a crash."""
    number = 0
    for rate in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3):
        for seed in range(1, 6):
            number += 1
            run = folder / f"runs/lr{rate:g}-seed{seed}"
            run.mkdir(parents=True)
            peak = 0.9 + 0.02 * math.sin(rate * 40) + 0.004 * math.sin(seed * rate * 100)
            lines = [f"Solving net {number}"]
            for iteration in range(0, 10001, 500):
                learnt = peak * (1 - math.exp(-iteration / 1500)) - max(0, iteration - 6000) * 2e-6 * rate * 30
                lost = rate > 0.2 and iteration >= 2000
                accuracy, loss = (0.1, math.nan) if lost else (0.1 + 0.9 * learnt, 2.3 * (1 - learnt))
                lines += [
                    f"Iteration {iteration}, Testing net (#0)",
                    f"    Test net output #0: accuracy = {accuracy:.4f}",
                    f"    Test net output #1: loss = {loss:.4f}",
                    f"Iteration {iteration}, loss = {loss:.4f}",
                    f"Iteration {iteration}, lr = {rate}",
                ]
                if iteration and iteration % 1000 == 0:
                    lines.append(f"Snapshotting to binary proto file runs/{run.name}/net_iter_{iteration}.caffemodel")
                    (run / f"net_iter_{iteration}.caffemodel").touch()
                if (rate, seed, iteration) == (0.03, 4, 7000):
                    lines.append("Check failed: error == cudaSuccess (2 vs. 0)  out of memory")
                    break
            else:
                lines.append("Optimization Done.")
            text = ""
            for at, line in enumerate(lines):
                level = "F" if "failed" in line else "I"
                text += f"{level}0305 15:{at // 60:02d}:{at % 60:02d}.000000  7 solver.cpp:1] {line}\n"
            (run / "train.log").write_text(text)


@contextlib.contextmanager
def torch_first() -> Iterator[None]:
    """With PyTorch as the engine that serves where none is asked for, as on most users' machines."""
    registry = {"torch": choose.REGISTRY["torch"], "opencv": choose.REGISTRY["opencv"]}
    with mock.patch.object(choose, "REGISTRY", registry):
        yield


def run_page(page: RunPage, folder: Path) -> None:
    """Run a page's blocks in a folder; fills in `Block.said`."""
    names: dict[str, object] = {}
    with torch_first():
        for block in page.blocks:
            if block.file:
                (folder / block.file).write_text(block.code, encoding="utf-8")
            elif block.language == "python":
                with inside(folder), contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(block.code, str(page.path), "exec"), names)
            elif block.language == "console":
                block.said = [(command, _run(command[2:], folder)) for command, _ in block.commands]


def _run(command: str, folder: Path) -> str:
    line = command.replace("\\\n", " ").strip()
    line_fails = line.endswith(_FAILS)
    line = line.removesuffix(_FAILS).split("  # ")[0].strip()
    words = shlex.split(line)
    # In this process, where the libraries are loaded; what only a shell can do, by a shell.
    own = (folder / "caffe_split").is_dir()  # a checkout, whose code is to run
    if words[0] == "caffe-split" and not own and not re.search(r"[|<>*?&;$]", line):
        said, found = _in_this_process(words, folder)
    else:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env={**os.environ, "PATH": path, **({"PYTHONPATH": str(folder)} if own else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        said, found = result.stdout, result.returncode
    assert (found != 0) == line_fails, f"{line}: {found}\n{said}"
    for path, name in ((str(folder), "/home/you"), (sys.executable, "python"), (str(ROOT), "/home/you/caffe-split")):
        said = said.replace(path, name)
    return said


def _in_this_process(words: list[str], folder: Path) -> tuple[str, int]:
    """What a command prints, in the order of a terminal, and its exit status."""
    with caught(1) as out:
        kept, stream = os.dup(2), sys.stderr
        os.dup2(1, 2)
        sys.stderr = sys.stdout
        try:
            status = call_main(words, folder)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr = stream
    return out.text, status


def same(written: str, said: str) -> bool:
    """Whether what a page says is what came out, as far as that is the same everywhere.

    Runs of blanks and rules of tables count as one. A decimal number may differ by 0.02 or by 5 %: another processor
    adds in another order. Seconds, rates, times, and the prefixes of a log's lines are any.
    """
    shown, came = _plain(written).splitlines(), _plain(said).splitlines()
    reached = {0}  # how many lines of `came` may have been taken
    for line in shown:
        if line.strip() == "...":
            reached = set(range(min(reached, default=0), len(came) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(came) and _same_line(line, came[at])}
    return len(came) in reached


def _same_line(written: str, said: str) -> bool:
    pattern, numbers = "", []
    for part in re.split(r"(\.\.\.)", written):
        at = 0
        for found in _NUMBER.finditer(part) if part != "..." else ():
            pattern += re.escape(part[at : found.start()]) + f"({_NUMBER.pattern})"
            numbers.append((found[0], part[found.end() :]))
            at = found.end()
        pattern += ".*" if part == "..." else re.escape(part[at:])
    match = re.fullmatch(pattern, said)
    return match is not None and all(
        _near(number, other, after) for (number, after), other in zip(numbers, match.groups())
    )


def _plain(text: str) -> str:
    text = re.sub(r"^[IWEF]\d{4,8} [\d:.]+ +\d+ (\w+\.\w+):\d+\]", r"I \1]", text, flags=re.MULTILINE)
    text = re.sub(r"\d+:\d\d:\d\d", "H:MM:SS", text)
    lines = (re.sub(r"-{3,}", "---", re.sub(r"[ \t]+", " ", line)).rstrip() for line in text.strip("\n").splitlines())
    return "\n".join(lines)


def _near(written: str, said: str, after: str) -> bool:
    if re.match(r" ?(s|ms|seconds|minutes|it/s|iterations/s)\b", after):
        return True
    if not re.search(r"[.e]", written + said):
        return written == said
    first, second = (float(number.replace(",", "")) for number in (written, said))
    return abs(first - second) <= max(0.02, 0.05 * abs(first))


def written(page: RunPage) -> str:
    """The page's text with what has come out, except in blocks that have a `...`."""
    text = page.text
    for block in reversed(page.blocks):
        if block.said and "..." not in block.code:
            new = "".join(
                command + said + ("" if said.endswith("\n") or not said else "\n") for command, said in block.said
            )
            text = text[: block.start] + new + text[block.start + len(block.code) :]
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = read_page(Path(name).resolve())
        assert page is not None, f"{name} has no mark <!-- run: ... -->"
        with tempfile.TemporaryDirectory() as work:
            make_world(page.world, Path(work))
            run_page(page, Path(work))
        page.path.write_text(written(page), encoding="utf-8")
