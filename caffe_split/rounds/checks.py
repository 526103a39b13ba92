"""What is checked of a loop's files before anything is trained."""

from __future__ import annotations

from pathlib import Path

from caffe_split.backends.check_data import check_data
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike
from caffe_split.net.solver_nets import nets_of
from caffe_split.net.training import Training
from caffe_split.net.which_net import solver_test_net_fields
from caffe_split.rounds.outputs import tested_images


def check_solver(training: Training) -> None:
    """Raises `CaffeSplitError` for a solver whose trainings could not be compared."""
    solver = training.solver
    assert solver is not None
    assert training.solver_path is not None
    name = solver.filename
    if not (solver.has("net") or training.is_inline) or solver_test_net_fields(solver):
        raise CaffeSplitError(f"{name}: a loop needs a solver that names one net for training and testing, with `net`.")
    end, every = int(solver.get("max_iter", 0)), int(solver.get("test_interval", 0))
    if end < 1:
        raise CaffeSplitError(f"{name}: max_iter is {end}; there is nothing to train.")
    if not solver.has("test_iter") or not 0 < every <= end:
        raise CaffeSplitError(
            f"{name}: it never tests (test_iter {solver.get('test_iter', 'not given')}, test_interval {every}), and "
            "rounds are compared by test accuracy; give both, and an Accuracy layer."
        )
    tested_images(training)
    check_data(list(nets_of(training.solver_path)))


def check_deploy(training: Training, deploy: PathLike | None) -> None:
    """Raises `CaffeSplitError` where the deploy net is not there, or would replace the folded net in `best/`."""
    if deploy is None:
        return
    if not Path(deploy).is_file():
        raise CaffeSplitError(f"no deploy net {deploy}.")
    if Path(deploy).name == training.net_path.name:
        raise CaffeSplitError(
            f"{deploy}: best/ holds the folded {training.net_path.name} beside it, and both have one name; rename one."
        )
