"""Sets up nets in pycaffe, each in a process of its own, since Caffe ends the process where a check fails.

`python setup_job.py TEXTS.json RESULTS.json [back]`: the first holds a list of nets; the second gets whether Caffe set
up each, and with `back`, whether it ran it forward and back.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import caffe


def main() -> None:
    caffe.set_mode_cpu()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.prototxt")
        for text in json.loads(Path(sys.argv[1]).read_text()):
            path.write_text(text)
            child = os.fork()
            if child == 0:
                try:
                    net = caffe.Net(str(path), caffe.TRAIN)
                    if sys.argv[3:] == ["back"]:
                        net.forward()
                        net.backward()
                except BaseException:
                    os._exit(1)
                os._exit(0)
            found.append(os.waitpid(child, 0)[1] == 0)
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
