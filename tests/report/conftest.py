"""Run folders that the report's tests share."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SYNTHETIC = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("synthetic_run.py"))))
SHAPES = ("normal", "tiny", "empty", "hostile")


@pytest.fixture(scope="session")
def synthetic() -> Any:
    """The module that makes run folders up."""
    return SYNTHETIC


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a shape -> its run folder, made once; not to be changed."""
    made: dict[str, Path] = {}

    def get(shape: str) -> Path:
        if shape not in made:
            folder = tmp_path_factory.mktemp("runs") / shape
            made[shape] = SYNTHETIC.write_run(folder, getattr(SYNTHETIC, shape.upper()))
        return made[shape]

    return get


@pytest.fixture(params=SHAPES)
def any_folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    """Each made-up run in turn."""
    return folder_of(request.param)
