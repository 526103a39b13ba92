"""Trainings of several processes each, for tests: `many_job.py JOBS.json`.

A job is {"name", "folder", "size", "options": of `Group`, "solver": of `Solver`}. Process `rank` leaves its parameters
in NAME.RANK.npz and its log in NAME.RANK.log, where it fails its error. The processes are forks of one that has
loaded PyTorch already.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from caffe_split.engine.group import Group
from caffe_split.engine.log import Log
from caffe_split.engine.solver import Solver
from caffe_split.errors import CaffeSplitError


def train(job: dict[str, Any], rank: int) -> None:
    name, size = job["name"], job["size"]
    os.chdir(job["folder"])
    if size > 1:
        dist.init_process_group("gloo", store=dist.FileStore(f"{name}.store", size), rank=rank, world_size=size)
    group = Group(rank, size, **job.get("options", {}))
    with open(f"{name}.{rank}.log", "w") as stream:
        try:
            solver = Solver("solver.prototxt", log=Log(stream), group=group, **job.get("solver", {}))
            solver.solve()
        except CaffeSplitError as error:
            stream.write(f"refused: {error}\n")
            return
    arrays = {f"{layer}:{n}": blob for layer, blobs in solver.net.arrays().items() for n, blob in enumerate(blobs)}
    arrays.update({f"history:{n}": array.numpy() for n, array in enumerate(solver.updater.history)})
    np.savez(f"{name}.{rank}.npz", **arrays)


def main() -> None:
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        children = []
        for rank in range(job["size"]):
            child = os.fork()
            if not child:
                status = 1
                try:
                    train(job, rank)
                    status = 0
                except Exception:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        if failed:
            raise SystemExit(f"{job['name']}: a process failed")


if __name__ == "__main__":
    main()
