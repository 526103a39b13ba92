"""What the tests of the formats share: the built Caffe's source tree and tools, and odd files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def caffe_source() -> Path:
    """The folder with the built Caffe's caffe.proto, models/ and examples/."""
    tool = ROOT / "tools" / "build_caffe"
    if not (ROOT / ".venv" / "bin" / "caffe").exists() or not tool.exists():
        pytest.skip("Caffe is not built; run ./tools/build_caffe")
    result = subprocess.run([tool, "--print-source"], capture_output=True, text=True, check=True)
    return Path(result.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def caffe_tool():
    """A function: the path of one of Caffe's programs in the virtual environment."""

    def tool(name: str) -> Path:
        path = ROOT / ".venv" / "bin" / name
        if not path.exists():
            pytest.skip(f"no {name}; run ./tools/build_caffe")
        return path

    return tool
