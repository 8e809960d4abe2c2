"""
Several runs side by side: two run folders, and studies over a grid of configurations.

Importing a package puts it into its parent under its own name, so that ``memtrace.compare`` is this package as soon as
anything in it has been imported. The function of that name is what users mean; therefore the package can be called.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is also a function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from .study import compare

        return compare(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from .study import compare

        return inspect.signature(compare)


sys.modules[__name__].__class__ = _Callable
