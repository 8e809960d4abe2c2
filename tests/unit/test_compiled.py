"""Is an old compiled core refused, and do generated declarations say what the annotations say?"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from memtrace import compiled
from memtrace.errors import ConfigError
from memtrace.pxd import Package, compiled_sources, declarations


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two modules of a core, and a plain one, with compiled files that match."""
    folder = tmp_path / "core"
    folder.mkdir()
    digests = {}
    for name in ("slub", "buddy"):
        source = folder / f"{name}.py"
        source.write_text(f'"""{name}"""\n\nimport cython\n', encoding="utf-8")
        extension = folder / (name + EXTENSION_SUFFIXES[0])
        extension.write_bytes(b"")
        digests[extension.name] = hashlib.sha256(source.read_bytes()).hexdigest()
    (folder / "plain.py").write_text('"""Says `import cython` only in words."""\n', encoding="utf-8")
    (folder / "_built.json").write_text(json.dumps(digests), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _not_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.VARIABLE, raising=False)


def test_matching_core_is_accepted(package: Path) -> None:
    compiled.check(package)
    assert compiled.status(package) == "compiled"


def test_edited_source_is_refused_by_name(package: Path) -> None:
    with (package / "slub.py").open("a", encoding="utf-8") as source:
        source.write("LIMIT = 2\n")
    with pytest.raises(ConfigError, match=r"slub\.py: edited since .*make build") as error:
        compiled.check(package)
    assert "\n" not in str(error.value)


def test_half_compiled_core_is_refused(package: Path) -> None:
    (package / ("buddy" + EXTENSION_SUFFIXES[0])).unlink()
    assert compiled.status(package) == "mixed"
    with pytest.raises(ConfigError, match=r"buddy\.py: not compiled"):
        compiled.check(package)


def test_compiled_file_of_unknown_origin_is_refused(package: Path) -> None:
    (package / "_built.json").unlink()
    with pytest.raises(ConfigError, match="edited since"):
        compiled.check(package)


def test_interpreted_core_is_never_stale(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "slub.py").write_text("import cython\n", encoding="utf-8")
    monkeypatch.setenv(compiled.VARIABLE, "1")
    compiled.check(package)
    assert compiled.status(package) == "interpreted"


def test_core_without_compiled_files_is_accepted(package: Path) -> None:
    for name in ("slub", "buddy"):
        (package / (name + EXTENSION_SUFFIXES[0])).unlink()
    compiled.check(package)
    assert compiled.status(package) == "interpreted"


@pytest.mark.parametrize("asked", ["0", "1"])
def test_variable_chooses_the_form_that_is_imported(asked: str) -> None:
    code = "import memtrace.mm.itinerary as module; print(module.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, compiled.VARIABLE: asked}, capture_output=True, text=True
    )
    wants_source = asked == "1" or compiled.status() == "interpreted"
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("itinerary.py") == wants_source


def test_this_core_is_not_stale() -> None:
    compiled.check()


def test_every_module_of_the_core_has_declarations() -> None:
    package = Package(compiled.PACKAGE)
    sources = compiled_sources(compiled.PACKAGE)
    assert sources
    for source in sources:
        text = declarations(package, package.name_of(source))
        for name in package.module(package.name_of(source)).classes:  # type: ignore[union-attr]
            assert f"cdef class {name}" in text


CONSTANTS = """
BASE = 1 << 4
MASK = ~(BASE - 1)
DIRECT_MAP = 0xFFFF888000000000
SHARE = 0.5
FIRST, SECOND = 0, BASE + 1
NAMES = ("a", "b")
FLAG = True
"""
BUDDY = """
import cython
from core.constants import BASE

_NIL = -1
TABLE = [1, 2]

@cython.cfunc
def helper(x: cython.int) -> cython.int:
    return x

@cython.cclass
class Zone:
    free: cython.longlong
    head: cython.int[:]
    grid: cython.uchar[:, ::1]
    peer: "Zone | None"
    names: list[str]
    config: Config
    ratio: float

@cython.cclass
class Buddy:
    zone: Zone

    def __init__(self): ...

    @cython.cfunc
    @cython.exceptval(check=False)
    def take(self, order: cython.int, zone: Zone) -> cython.void: ...

    @cython.ccall
    def free(self, pfn: cython.longlong, order: cython.int = 0) -> cython.bint: ...

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def find(self) -> cython.int: ...

    @cython.cfunc
    @cython.exceptval(-1)
    def look(self) -> cython.int: ...

    @cython.cfunc
    def other(self) -> Zone: ...
"""
FALLBACK = """
import cython
from core.buddy import Buddy, Zone as Z, helper
from core.constants import BASE, DIRECT_MAP, FLAG, MASK, NAMES, SECOND, SHARE

@cython.cclass
class Fallback(Buddy):
    zones: Z

    @cython.cfunc
    def take(self, order: cython.int, zone: Z) -> cython.void: ...
"""


@pytest.fixture
def sources(tmp_path: Path) -> Package:
    folder = tmp_path / "core"
    folder.mkdir()
    for name, text in (("constants", CONSTANTS), ("buddy", BUDDY), ("fallback", FALLBACK)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return Package(folder)


def test_declarations_of_attributes_and_methods(sources: Package) -> None:
    lines = [line.strip() for line in declarations(sources, "core.buddy").splitlines()]
    assert lines[lines.index("cdef class Zone:") + 1:] == [
        "cdef public long long free",
        "cdef public int[:] head",
        "cdef public unsigned char[:, ::1] grid",
        "cdef public Zone peer",
        "cdef public list names",
        "cdef public object config",
        "cdef public double ratio",
        "",
        "cdef class Buddy:",
        "cdef public Zone zone",
        "cdef void take(self, int order, Zone zone) noexcept",
        "cpdef bint free(self, long long pfn, int order=*)",
        "cdef int find(self) except -1",
        "cdef int look(self) except? -1",
        "cdef Zone other(self)",
    ]


def test_integer_constants_become_c_integers_and_other_names_stay_python(sources: Package) -> None:
    declared = {line for line in declarations(sources, "core.fallback").splitlines() if line.startswith("cdef")}
    assert declared == {
        "cdef long long BASE",
        "cdef long long MASK",
        "cdef long long SECOND",
        "cdef unsigned long long DIRECT_MAP",
        "cdef double SHARE",
        "cdef class Fallback(Buddy):",
    }
    assert "cdef long long _NIL" in declarations(sources, "core.buddy")
    assert "TABLE" not in declarations(sources, "core.buddy")


def test_classes_of_other_compiled_modules_are_cimported(sources: Package) -> None:
    lines = declarations(sources, "core.fallback").splitlines()
    assert "from core.buddy cimport Buddy" in lines
    assert "from core.buddy cimport Zone as Z" in lines
    assert not any("helper" in line for line in lines)


def test_relative_import_in_a_compiled_module_is_refused(sources: Package) -> None:
    (sources.root / "bad.py").write_text("import cython\nfrom .buddy import Zone\n", encoding="utf-8")
    with pytest.raises(SyntaxError, match=r"bad\.py:2: relative import"):
        declarations(sources, "core.bad")
