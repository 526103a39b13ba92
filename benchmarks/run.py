"""The benchmarks of the file formats: `python benchmarks/run.py` (about ten minutes, most of them protobuf's)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import bench_prototxt, bench_weights

if __name__ == "__main__":
    bench_prototxt.main([])
    bench_weights.main([])
