"""Writing a planned derivation: a new folder with all of it, or nothing."""

from __future__ import annotations

from caffe_split.backends.check_weights import STATE_NAME, WEIGHTS_NAME
from caffe_split.derivation.plan import DerivePlan
from caffe_split.files import new_folder
from caffe_split.formats.weights import caffemodel
from caffe_split.formats.weights.solverstate import write_solverstate
from caffe_split.manifest import write_manifest


def write_derived(plan: DerivePlan, force: bool = False) -> None:
    """Write the plan's files into `plan.out`: all of them or nothing.

    They are made in a folder beside it, which is renamed at the end; manifest.json is written last. Raises
    `CaffeSplitError` where the folder may not be written; see `new_folder` for `force`.
    """
    with new_folder(plan.out, force) as folder:
        for name, data in plan.texts.items():
            (folder / name).write_bytes(data)
        caffemodel.write_weights(folder / WEIGHTS_NAME, plan.weights, net_name="", types=plan.types)
        if plan.state is not None:
            write_solverstate(folder / STATE_NAME, plan.state)
        write_manifest(folder, plan.inputs, plan.output_names(), plan.as_dict())
