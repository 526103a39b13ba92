"""Writing a planned derivation: a new folder with all of it, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from caffe_split import __version__, jsontext
from caffe_split.files import MANIFEST, check_out, new_folder, sha256
from caffe_split.fit import STATE_NAME, WEIGHTS_NAME
from caffe_split.plan import DerivePlan
from caffe_split.proto import caffemodel
from caffe_split.proto.solverstate import write_solverstate


def write_derived(plan: DerivePlan, force: bool = False) -> None:
    """Write the plan's files into `plan.out`: all of them or nothing.

    They are made in a folder beside it, which is renamed at the end; manifest.json is written last. Raises
    `CaffeSplitError` where the folder exists, unless `force`, which replaces it whole.
    """
    check_out(plan.out, force)
    with new_folder(plan.out, force) as folder:
        for name, data in plan.texts.items():
            (folder / name).write_bytes(data)
        caffemodel.write_weights(folder / WEIGHTS_NAME, plan.weights, net_name="", types=plan.types)
        if plan.state is not None:
            write_solverstate(folder / STATE_NAME, plan.state)
        manifest = {
            "caffe_split": __version__,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "inputs": {str(path): sha256(path) for path in plan.inputs},
            "outputs": {name: sha256(folder / name) for name in plan.output_names()},
            "plan": plan.as_dict(),
        }
        (folder / MANIFEST).write_text(jsontext.dumps(manifest) + "\n", encoding="utf-8")
