"""A simulated kernel to be called by hand (``memtrace.Kernel``); see docs/by-hand.md."""

from __future__ import annotations

from .caller import NULL, Address, Cache, Page, Step
from .kernel import Kernel

__all__ = ["NULL", "Address", "Cache", "Kernel", "Page", "Step"]
