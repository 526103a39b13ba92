"""One training as a program of its own, which `caffe-split train --engine torch` starts as it starts Caffe.

    python -m caffe_split.engine SOLVER [--weights FILE,FILE | --snapshot FILE] [--device cpu|cuda] [--seed N]
        [--precision fp32|tf32|bf16] [--compile] [--threads N]

The log goes to standard error. SIGINT snapshots and stops, SIGHUP snapshots. The status is 0 at the end or after a
stop, 1 for a mistake, whose line in the log begins with F.
"""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from caffe_split.engine import require_torch
from caffe_split.engine.log import Log
from caffe_split.errors import CaffeSplitError


class _Wishes:
    """What signals have asked for and nobody has been told yet."""

    def __init__(self) -> None:
        self._stop = self._snapshot = False
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGHUP, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._stop = True
        else:
            self._snapshot = True

    def __call__(self) -> str:
        if self._stop:
            self._stop = False
            return "stop"
        if self._snapshot:
            self._snapshot = False
            return "snapshot"
        return ""


def main() -> int:
    """Train; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m caffe_split.engine")
    parser.add_argument("solver")
    parser.add_argument("--weights")
    parser.add_argument("--snapshot")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    words = parser.parse_args()
    log = Log()
    wishes = _Wishes()
    try:
        require_torch()
        import torch

        from caffe_split.engine.device import choose_device, keep_memory
        from caffe_split.engine.precision import set_precision
        from caffe_split.engine.solver import Solver

        keep_memory()
        if words.threads:
            torch.set_num_threads(words.threads)
        device = choose_device(words.device, words.solver)
        log.info("Use CPU." if device.type == "cpu" else f"Using GPUs 0: {torch.cuda.get_device_name(device)}")
        set_precision(words.precision, device)
        how = f"{words.precision}{', compiled' if words.compile else ''}"
        log.info(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {how}")
        try:
            solver = Solver(
                words.solver,
                weights=[words.weights] if words.weights else None,
                snapshot=words.snapshot,
                device=device,
                seed=words.seed,
                precision=words.precision,
                compiled=words.compile,
                log=log,
                wish=wishes,
            )
            solver.solve()
        except RuntimeError as error:
            if not isinstance(error, torch.cuda.OutOfMemoryError) and "not enough memory" not in str(error):
                raise
            raise CaffeSplitError(
                f"there is no memory left ({str(error).splitlines()[0]}); take a smaller batch_size and a "
                "larger iter_size"
            ) from error
    except CaffeSplitError as error:
        log.fatal(" ".join(str(error).split("\n")))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
