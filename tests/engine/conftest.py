"""Files of rows and lists of images, in the current directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.source_files import encoded, picture


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rows(folder: Path) -> dict[str, np.ndarray]:
    """Two files of 3 and 5 rows, of a double, an integer and a float data set."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")
    rng = np.random.default_rng(2)
    found = {
        "data": rng.normal(size=(8, 2, 3)),
        "label": rng.integers(0, 99, size=8),
        "far": rng.normal(size=(8, 4, 3, 2, 2)).astype(np.float32),
    }
    for name, part in (("a.h5", slice(0, 3)), ("b.h5", slice(3, 8))):
        with h5py.File(name, "w") as stream:
            for key, values in found.items():
                stream[key] = values[part]
    Path("list").write_text("a.h5\nb.h5\n")
    return found


@pytest.fixture
def listed(folder: Path) -> list[np.ndarray]:
    """Five images of one size below "root/", with labels 10 to 14, a name with a blank among them."""
    Path("root").mkdir()
    found = [picture(seed, (12, 10)) for seed in range(5)]
    lines = []
    for index, values in enumerate(found):
        name = f"an image {index}.png" if index == 2 else f"{index}.png"
        Path("root", name).write_bytes(encoded(values, "PNG"))
        lines.append(f"{name} {10 + index}\n")
    Path("list.txt").write_text("".join(lines))
    return found
