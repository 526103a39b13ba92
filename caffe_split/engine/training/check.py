"""Whether a solver's settings are handled; its nets are checked elsewhere."""

from __future__ import annotations

import importlib.util

from caffe_split.engine.parallel.group import Group
from caffe_split.errors import CaffeSplitError
from caffe_split.net.options import Options
from caffe_split.net.outputs import ap_version
from caffe_split.net.snapshots import prefix_problem, snapshot_prefix


def check_solver(path: str, o: Options, group: Group) -> None:
    """Raises `CaffeSplitError` with all settings that are not handled, at once.

    path: the solver's file. o: its fields. group: the processes that will train.
    """
    problems = ["snapshot_diff is not handled"] if o.get("snapshot_diff") else []
    if o.get("debug_info") and group.size > 1:
        problems.append("debug_info is for one process")
    if not o.has("base_lr") and not o.has("lr_policy"):
        problems.append("it gives no base_lr and no lr_policy")
    if o.get("iter_size") < 1 or o.get("average_loss") < 1:
        problems.append("iter_size and average_loss have to be 1 or more")
    if any(count < 1 for count in o.all("test_iter")):
        problems.append("test_iter has to be 1 or more")
    if o.get("eval_type") not in ("classification", "detection"):
        problems.append(f"eval_type '{o.get('eval_type')}' is not handled; expected classification or detection")
    try:
        ap_version(o)
    except CaffeSplitError as error:
        problems.append(str(error))
    if o.get("snapshot_format") == "HDF5" and importlib.util.find_spec("h5py") is None:
        problems.append("snapshot_format HDF5 needs h5py: pip install h5py")
    problem = prefix_problem(snapshot_prefix(path, o.get("snapshot_prefix")))
    problems += [problem] if problem is not None else []
    if problems:
        raise CaffeSplitError(f"{path}: " + "; ".join(problems) + ".")
