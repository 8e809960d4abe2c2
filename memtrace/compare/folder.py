"""A study's folder: whose it is, and what may lie in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import check_encoding, saying, write_text
from ..metrics.run_folder import FIGURES, REPORT, hold, remove_abandoned
from .grid import Grid

STUDY = "study.json"
CELLS = "cells"
DATASET = "dataset"
STUDY_FORMAT = 1


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """
    Make a study's folder and be the only one at work in it; what killed ones left half-written is removed.

    Nothing of this is left behind, however the process ends.

    Raises
    ------
    ConfigError
        It is not a folder, another process is at work in it, or its file system cannot tell.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: exists and is not a folder; expected a new folder for -o. Give another name.")
    check_encoding(folder)
    with saying(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder)
    if lock is None:
        raise ConfigError(f"{folder}: another `memtrace compare` is at work in this folder; expected to be the only "
                          "one. Wait until it is done, or give another name for -o.")
    try:
        if (folder / CELLS).is_dir():
            remove_abandoned(folder / CELLS)
        yield
    finally:
        os.close(lock)


def claim(folder: Path, grid: Grid, force: bool) -> None:
    """Make it this study's folder; refuse one that holds something else, or another study unless ``force``."""
    place = folder / STUDY
    if folder.is_dir() and any(folder.iterdir()) and not place.is_file():
        raise ConfigError(f"{folder}: a folder that holds other things than a study; expected a new folder for -o. "
                          "Give another name.")
    content = json.loads(json.dumps(grid.as_dict()))
    if place.is_file():
        try:
            held = json.loads(place.read_text(encoding="utf-8"))
        except ValueError:
            held = {}
        if held.get("grid") == content:
            return
        if not force:
            raise ConfigError(f"{folder}: holds another study; expected a new folder for -o. Give another name, or "
                              "--force to replace it; its cells are used where they fit.")
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(place, {"memtrace_study": STUDY_FORMAT, "grid": content, "complete": False})
    # The results of the other study must not be taken for those of this one while it runs.
    (folder / REPORT).unlink(missing_ok=True)
    for results in (DATASET, FIGURES):
        shutil.rmtree(folder / results, ignore_errors=True)


def unfinished(folder: Path) -> None:
    """Say in study.json that the results are being written."""
    held = json.loads((folder / STUDY).read_text(encoding="utf-8"))
    replace_json(folder / STUDY, {**held, "complete": False})


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
