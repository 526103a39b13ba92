"""The versions and the machine that a study is run with."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from caffe_split import __version__
from caffe_split.backends.choose import get_backend
from caffe_split.engine.spec.command import Choices
from caffe_split.errors import counted
from caffe_split.study.model import Study


def versions(study: Study) -> str:
    """The versions of the programs that the study runs, and how it trains."""
    found = [f"caffe-split {__version__}", f"Python {platform.python_version()}"]
    backend = get_backend(study.engine)
    for name in filter(None, ("snakemake", backend.distribution)):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} {'?' if importlib.util.find_spec(name) else 'not installed'}")
    trainer = backend.trainer(Choices(study.device, precision=study.precision))
    return f"{', '.join(found)}; trained by {trainer}, {counted(study.threads, 'thread')} a training"


def machine() -> str:
    """The kind of machine."""
    return f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
