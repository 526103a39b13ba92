"""Fuzz one target with atheris (`pip install atheris`), which follows the coverage:

    python -m tests.fuzz.fuzz prototxt -max_total_time=600

Targets: prototxt, caffemodel, solverstate, hdf5, proto. What follows the target goes to libFuzzer. Without atheris:
`--plain SECONDS` mutates the seeds at random, as the test of the same folder does for a moment.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    name = sys.argv[1]
    if "--plain" in sys.argv:
        from tests.fuzz.plain import mutate_for
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS

        runs = mutate_for(TARGETS[name], seeds()[name], float(sys.argv[sys.argv.index("--plain") + 1]), seed=None)
        print(f"{runs} runs, nothing found")
        return
    import atheris

    with atheris.instrument_imports(include=["caffe_split", "targets"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    corpus = tempfile.mkdtemp(prefix=f"corpus-{name}-")
    for index, seed in enumerate(seeds()[name]):
        (Path(corpus) / str(index)).write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, "-max_len=16384", "-timeout=20", *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
