"""Runs nets in pycaffe, in a process of its own: `python pycaffe_job.py FOLDER`.

FOLDER/jobs.json lists names. Of each, NAME.prototxt is the net and NAME.in.npz what to fill in: `blob:NAME` values,
`param:LAYER:INDEX` values, `memory:images` and `memory:labels` for a MemoryData layer, `diff:NAME` the gradient at a
top. NAME.out.npz gets all blobs, and after the way back the diffs of the blobs that were filled in and of all params,
and the params.
"""

import json
import sys
from pathlib import Path

import caffe
import numpy as np


def main() -> None:
    folder = Path(sys.argv[1])
    caffe.set_mode_cpu()
    for job in json.loads((folder / "jobs.json").read_text()):
        print(job["name"], flush=True)
        caffe.set_random_seed(1)
        given = np.load(folder / f"{job['name']}.in.npz")
        net = caffe.Net(str(folder / f"{job['name']}.prototxt"), getattr(caffe, job["phase"]))
        for key in given.files:
            kind, *rest = key.split(":")
            if kind == "blob":
                net.blobs[rest[0]].data[...] = given[key]
            elif kind == "param":
                net.params[rest[0]][int(rest[1])].data[...] = given[key]
        if "memory:images" in given.files:
            net.set_input_arrays(given["memory:images"], given["memory:labels"])
        for _ in range(job.get("forwards", 1)):
            net.forward()
        out = {f"blob:{name}": blob.data.copy() for name, blob in net.blobs.items()}
        if job["back"]:
            for key in given.files:
                if key.startswith("diff:"):
                    net.blobs[key[5:]].diff[...] = given[key]
            for blobs in net.params.values():
                for blob in blobs:
                    blob.diff[...] = 0
            net.backward()
            for key in given.files:
                if key.startswith("blob:"):
                    out[f"diff:{key[5:]}"] = net.blobs[key[5:]].diff.copy()
            for layer, blobs in net.params.items():
                for index, blob in enumerate(blobs):
                    out[f"paramdiff:{layer}:{index}"] = blob.diff.copy()
        for layer, blobs in net.params.items():
            for index, blob in enumerate(blobs):
                out[f"param:{layer}:{index}"] = blob.data.copy()
        np.savez(folder / f"{job['name']}.out.npz", **out)


if __name__ == "__main__":
    main()
