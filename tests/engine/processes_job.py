"""Trainings of several processes each, for tests: `processes_job.py JOBS.json`.

A job is {"name", "folder", "size", "options": of `Group`, "solver": of `Solver`, "file": a solver's}, or with "layers"
a folder of nets to run once. Process `rank` leaves its parameters in NAME.RANK.npz and its log in NAME.RANK.log, with
the error where it is refused. The processes are forks of one that has loaded PyTorch already.
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

from caffe_split.engine.log import Log
from caffe_split.engine.model.net import Net
from caffe_split.engine.parallel.group import Group
from caffe_split.engine.training.solver import Solver
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.layertypes.batch_rules import EACH, SUM


def train(job: dict[str, Any], rank: int) -> None:
    name, size = job["name"], job["size"]
    os.chdir(job["folder"])
    if size > 1:
        dist.init_process_group("gloo", store=dist.FileStore(f"{name}.store", size), rank=rank, world_size=size)
    group = Group(rank, size, **job.get("options", {}))
    with open(f"{name}.{rank}.log", "w") as stream:
        try:
            solver = Solver(job.get("file", "solver.prototxt"), log=Log(stream), group=group, **job.get("solver", {}))
            solver.solve()
        except CaffeSplitError as error:
            stream.write(f"refused: {error}\n")
            return
    arrays = {f"{layer}:{n}": blob for layer, blobs in solver.net.arrays().items() for n, blob in enumerate(blobs)}
    arrays.update({f"history:{n}": array.numpy() for n, array in enumerate(solver.updater.history)})
    np.savez(f"{name}.{rank}.npz", **arrays)


def run_layers(job: dict[str, Any], rank: int) -> None:
    """Every net of the folder, forward and back, on this process's rows of its inputs."""
    os.chdir(job["folder"])
    dist.init_process_group("gloo", store=dist.FileStore("store", job["size"]), rank=rank, world_size=job["size"])
    group = Group(rank, job["size"], sync_norms=True)
    for path in sorted(Path().glob("*.prototxt")):
        given = np.load(path.with_suffix(".in.npz"))
        try:
            net = Net(read_net(path), str(given["phase"]), group=group)
        except CaffeSplitError as error:
            path.with_suffix(f".{rank}.refused").write_text(str(error))
            continue
        out = run(net, {name: given[name] for name in given.files}, group)
        np.savez(path.with_suffix(f".{rank}.npz"), **out)


def run(net: Net, given: dict[str, np.ndarray], group: Group) -> dict[str, np.ndarray]:
    """Whole tops, and mean gradients of the parameters, from arrays "param:L:N", "blob:B" and "diff:T"."""
    with torch.no_grad():
        for param in net.params:
            param.values.copy_(torch.tensor(given[f"param:{param.layer}:{param.index}"]))
            param.values.requires_grad_(param.lr_mult != 0)
    inputs = {
        name: torch.tensor(given[f"blob:{name}"][group.rows(len(given[f"blob:{name}"])).slice]) for name in net.inputs
    }
    blobs = net.forward(inputs, keep=True).blobs
    out = {}
    total = torch.zeros(())
    for key in [key for key in given if key.startswith("diff:")]:
        top, diff = blobs[key[5:]], torch.tensor(given[key])
        kind = net.kinds.get(key[5:])
        if kind == EACH:
            diff = diff[group.rows(len(diff)).slice]
        total = total + (top * diff).sum() * (group.size if kind in (EACH, SUM) else 1)
        out[key[5:]] = net.whole(key[5:], top.detach()).numpy()
    if total.requires_grad:
        total.backward()
    for param in net.params:
        if param.values.grad is not None:
            group.average([param.values.grad], [0.0])
            out[f"{param.layer}:{param.index} diff"] = param.values.grad.numpy()
        out[f"{param.layer}:{param.index}"] = param.values.detach().numpy()
    return out


def main() -> None:
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        children = []
        for rank in range(job["size"]):
            child = os.fork()
            if not child:
                status = 1
                try:
                    (run_layers if job.get("layers") else train)(job, rank)
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
