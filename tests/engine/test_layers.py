"""Every layer against the real Caffe: forward, backward, and what is kept, on random shapes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.cases import CASES

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.layertypes.table import RECORDS
from tests.engine.fork_cases_more import JUDGED
from tests.engine.judge import Arrays, built, compare, run_pycaffe, values

pytestmark = pytest.mark.caffe
SEEDS = (1, 2, 3)
# Layers without bottoms or with no values to compare, and those with tests of their own.
SOURCES = {"Input", "DummyData", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData"}
# Data layers of forks, whose tops the caller of the net gives: see test_forks.
GIVEN = {name for name, record in RECORDS.items() if record.engine and record.engine.module == "given"}
ELSEWHERE = SOURCES | {"Parameter", "Split", "Silence", "TPM", "HDF5Output", "Python", "MatWrite", "LabelSpecificAdd"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Arrays, Arrays]]:
    """What each case is given, and what pycaffe gives, by name and seed."""
    torch.set_num_threads(1)
    cases, given = {}, {}
    for name, make in CASES.items():
        for seed in SEEDS:
            rng = np.random.default_rng([seed, *name.encode()])
            cases[f"{name}-{seed}"] = case = make(rng)
            given[f"{name}-{seed}"] = values(case, built(case), rng)
    theirs = run_pycaffe(tmp_path_factory.mktemp("judged"), cases, given)
    return {name: (given[name], theirs[name]) for name in cases}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_each_layer_matches_caffe(judged: dict[str, tuple[Arrays, Arrays]], name: str, seed: int) -> None:
    case = CASES[name](np.random.default_rng([seed, *name.encode()]))
    compare(case, *judged[f"{name}-{seed}"])


def test_each_type_is_compared_with_caffe() -> None:
    types = {
        line.split('type: "')[1].split('"')[0]
        for make in CASES.values()
        for line in make(np.random.default_rng(0)).text.splitlines()
    }
    forks = {
        line.split('type: "')[1].split('"')[0] for judged in JUDGED.values() for line in judged.case.text.splitlines()
    }
    assert types | ELSEWHERE | forks | GIVEN == {name for name, record in RECORDS.items() if record.engine}
