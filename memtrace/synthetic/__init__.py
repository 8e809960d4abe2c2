"""
Workloads that are generated instead of recorded: named, documented, seeded.

A workload is one file with a ``WORKLOAD``; docs/workloads.md shows how to write one.
"""

from __future__ import annotations

from .tape import LIVES, Tape
from .workload import Parameter, Rounds, Workload

__all__ = ["LIVES", "Parameter", "Rounds", "Tape", "Workload"]
