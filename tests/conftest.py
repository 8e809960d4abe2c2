"""Fixtures and hypothesis profiles that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Derandomised, so that a failure is the same for everybody; `make test-all` looks further.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: a process for each CPU that this one may use, and no more than fit into a small machine's memory."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(len(usable), 8)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The folder of the traces that come with memtrace."""
    return ROOT / "traces"


@pytest.fixture(scope="session")
def ground_truth() -> Path:
    """The folder of instrumented recordings: hundreds of megabytes, so not part of the project."""
    folder = ROOT.parent / "shared" / "ground-truth"
    if not folder.is_dir():
        pytest.skip("the ground-truth recordings are not at ../shared/ground-truth")
    return folder
