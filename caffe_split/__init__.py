"""A Caffe-compatible toolkit: measure how kernels move, split convolutions by it, train on.

    import caffe_split as cs

    training = cs.open_training("solver.prototxt")
    scores = cs.measure_tpm(training, 50000)
    plan = cs.derive(training, 50000, layers=9, options=cs.DeriveOptions(kind="skip"), out="derived1")
    print(plan)
    plan.write()
    print(cs.verify("train_val.prototxt", "derived1/train_val.prototxt").verdict())
    cs.train("derived1/solver.prototxt", engine="torch")

The names are imported when they are first used, so that a command on a log does not wait for the weights' libraries.
All functions raise `CaffeSplitError` for what a user can mend, with the words of the command line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from caffe_split.errors import CaffeSplitError

if TYPE_CHECKING:
    from caffe_split import engine
    from caffe_split.backends.train import Outcome, train
    from caffe_split.backends.verify import Verification, VerifyOptions, verify
    from caffe_split.derivation.make import derive
    from caffe_split.derivation.measure_saliency import measure_saliency
    from caffe_split.derivation.options import DeriveOptions
    from caffe_split.derivation.plan import DerivePlan
    from caffe_split.engine.load import load
    from caffe_split.exporting.make import ExportPlan, export
    from caffe_split.exporting.options import CheckOptions, ExportOptions
    from caffe_split.folding.make import FoldOptions, FoldPlan, fold
    from caffe_split.formats.prototxt.nets import read_net, read_solver
    from caffe_split.formats.weights.caffemodel import read_weights, write_weights
    from caffe_split.inference.classify import Prediction, classify
    from caffe_split.inference.extract import Extracted, extract
    from caffe_split.inference.given import RunOptions
    from caffe_split.inference.images import Preprocessing
    from caffe_split.inference.scores import NetScores, score_net
    from caffe_split.inference.timing import NetTimes, time_net
    from caffe_split.layertypes.summary import Summary, summarize
    from caffe_split.net.state import NetState
    from caffe_split.net.training import Training, open_training
    from caffe_split.rounds.loop import multisplit
    from caffe_split.rounds.options import MultiSplitOptions
    from caffe_split.rounds.result import MultiSplits
    from caffe_split.split.saliency import Saliency
    from caffe_split.tpm.attach import InstrumentPlan, instrument, uninstrument
    from caffe_split.tpm.collect import measure_tpm
    from caffe_split.tpm.scores import LayerScores
    from caffe_split.trainlog.model import TrainingLog
    from caffe_split.trainlog.read import read_log

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - in groups, in the order in which they are used
    # errors
    "CaffeSplitError",
    # files
    "read_net",
    "read_solver",
    "read_weights",
    "write_weights",
    "open_training",
    "Training",
    "NetState",
    "summarize",
    "Summary",
    # TPM
    "instrument",
    "uninstrument",
    "InstrumentPlan",
    "measure_tpm",
    "LayerScores",
    # what the loss depends on
    "measure_saliency",
    "Saliency",
    # deriving and folding back
    "derive",
    "DeriveOptions",
    "DerivePlan",
    "verify",
    "VerifyOptions",
    "Verification",
    "fold",
    "FoldOptions",
    "FoldPlan",
    # for other runtimes
    "export",
    "ExportOptions",
    "ExportPlan",
    "CheckOptions",
    # all of it in rounds
    "multisplit",
    "MultiSplitOptions",
    "MultiSplits",
    # training and its log
    "train",
    "Outcome",
    "read_log",
    "TrainingLog",
    # using what was trained
    "score_net",
    "NetScores",
    "classify",
    "Prediction",
    "Preprocessing",
    "extract",
    "Extracted",
    "time_net",
    "NetTimes",
    "RunOptions",
    # Caffe's nets and solvers on PyTorch
    "load",
    "engine",
]

# Name -> the module that has it.
_LAZY = {
    "read_net": "formats.prototxt.nets",
    "read_solver": "formats.prototxt.nets",
    "read_weights": "formats.weights.caffemodel",
    "write_weights": "formats.weights.caffemodel",
    "open_training": "net.training",
    "Training": "net.training",
    "NetState": "net.state",
    "summarize": "layertypes.summary",
    "Summary": "layertypes.summary",
    "instrument": "tpm.attach",
    "uninstrument": "tpm.attach",
    "InstrumentPlan": "tpm.attach",
    "measure_tpm": "tpm.collect",
    "LayerScores": "tpm.scores",
    "measure_saliency": "derivation.measure_saliency",
    "Saliency": "split.saliency",
    "derive": "derivation.make",
    "DeriveOptions": "derivation.options",
    "DerivePlan": "derivation.plan",
    "verify": "backends.verify",
    "VerifyOptions": "backends.verify",
    "Verification": "backends.verify",
    "fold": "folding.make",
    "FoldOptions": "folding.make",
    "FoldPlan": "folding.make",
    "export": "exporting.make",
    "ExportPlan": "exporting.make",
    "ExportOptions": "exporting.options",
    "CheckOptions": "exporting.options",
    "multisplit": "rounds.loop",
    "MultiSplitOptions": "rounds.options",
    "MultiSplits": "rounds.result",
    "score_net": "inference.scores",
    "NetScores": "inference.scores",
    "classify": "inference.classify",
    "Prediction": "inference.classify",
    "Preprocessing": "inference.images",
    "extract": "inference.extract",
    "Extracted": "inference.extract",
    "time_net": "inference.timing",
    "NetTimes": "inference.timing",
    "RunOptions": "inference.given",
    "train": "backends.train",
    "Outcome": "backends.train",
    "load": "engine.load",
    "read_log": "trainlog.read",
    "TrainingLog": "trainlog.model",
}


def __getattr__(name: str) -> Any:
    if name == "engine":
        return importlib.import_module("caffe_split.engine")
    if name in _LAZY:
        value = getattr(importlib.import_module(f"caffe_split.{_LAZY[name]}"), name)
        globals()[name] = value  # found there from now on
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "engine"})
