"""Fixtures of the report's tests."""

from __future__ import annotations

import json

import pytest

from tests.report.made_runs import NASTY, NASTY_LAYER, Written, manifest, write_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """The folders base and one of a nasty name, which was derived and holds a layer of a nasty name."""
    folder = tmp_path_factory.mktemp("report")
    written = [write_run(folder / "base", 0.0), write_run(folder / NASTY, 0.0125)]
    (folder / NASTY / "manifest.json").write_text(json.dumps(manifest(NASTY, NASTY_LAYER)))
    return written
