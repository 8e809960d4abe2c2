"""
Compiles the core: every module of memtrace whose source says ``import cython``.

Everything else about the build stands in pyproject.toml. Without a C compiler the package is installed
all the same and runs interpreted; `memtrace.compiled.status` says which it is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "memtrace"
CACHE = ROOT / "build" / "extensions"
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": True,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "binding": False,
}
# -w: warnings about generated code tell nobody anything.
# A developer may want a quick compiler more than quick code: MEMTRACE_CFLAGS="-O1 -g0 -w".
C_FLAGS = [] if sys.platform == "win32" else os.environ.get("MEMTRACE_CFLAGS", "-O3 -g0 -w").split()
# Cython's own helpers (memoryviews) once, not in every module: that halves what the C compiler has to do.
SHARED = "memtrace._cython_shared"
NO_COMPILER = (
    "memtrace: the core could not be compiled, so it will run as plain Python: same results, much slower. "
    "Install a C compiler and the Python headers, then install memtrace again."
)


def load(path):
    """A module of the package by its path: the package itself cannot be imported before it is built."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def write_if_changed(path, text):
    """An untouched file keeps its time, so that nothing that depends on it is rebuilt."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def extensions():
    """One extension a compiled module, its C written anew if it, or a declaration that it uses, has changed."""
    pxd = load(PACKAGE / "pxd.py")
    package = pxd.Package(PACKAGE)
    sources = pxd.compiled_sources(PACKAGE)
    for path in sources:
        write_if_changed(path.with_suffix(".pxd"), pxd.declarations(package, package.name_of(path)))
    shared = ROOT.joinpath(*SHARED.split(".")).with_suffix(".c")
    known = {path.with_suffix("") for path in (*sources, shared)}
    for path in (*PACKAGE.rglob("*.pxd"), *PACKAGE.rglob("*.c")):
        if path.with_suffix("") not in known:
            path.unlink()
    files = {SHARED: shared} | {package.name_of(path): path for path in sources}
    modules = cythonize(
        [
            Extension(name, [str(path.relative_to(ROOT))], extra_compile_args=C_FLAGS)
            for name, path in files.items()
        ],
        compiler_directives=DIRECTIVES,
        shared_utility_qualified_name=SHARED,
        nthreads=2 if sys.platform == "linux" else 0,
        quiet=True,
    )
    for module in modules:
        module.optional = True
    return modules


class BuildCore(build_ext):
    """
    Compiles all extensions or none, remembering objects by content.

    All or none: a compiled module calls the others in C, and cannot call an interpreted one. What was
    compiled, and from which source, is left in ``_built.json`` for `memtrace.compiled`.
    """

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        key = hashlib.sha256()
        for path in ext.sources:
            key.update(Path(path).read_bytes())
        key.update(repr((self.compiler.compiler_so, C_FLAGS, sysconfig.get_config_var("EXT_SUFFIX"))).encode())
        cached = CACHE / f"{key.hexdigest()[:32]}{target.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not cached.exists():
            super().build_extension(ext)
            CACHE.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, cached.with_suffix(f".{os.getpid()}"))
            cached.with_suffix(f".{os.getpid()}").replace(cached)
        else:
            shutil.copy(cached, target)

    def run(self):
        built = {ext.name: Path(self.get_ext_fullpath(ext.name)) for ext in self.extensions}
        for path in built.values():
            path.unlink(missing_ok=True)  # not overwritten: a running memtrace may have it mapped
        super().run()
        package = PACKAGE if self.inplace else Path(self.build_lib) / PACKAGE.name
        package.mkdir(parents=True, exist_ok=True)
        record_path = package / "_built.json"
        # Other Pythons may have compiled files in the same folder, under other suffixes.
        record = json.loads(record_path.read_text(encoding="utf-8")) if record_path.exists() else {}
        record = {name: digest for name, digest in record.items() if (package / name).exists()}
        if all(path.exists() for path in built.values()):
            for module, path in built.items():
                source = ROOT.joinpath(*module.split(".")).with_suffix(".c" if module == SHARED else ".py")
                name = source.with_name(path.name).relative_to(PACKAGE).as_posix()
                record[name] = hashlib.sha256(source.read_bytes()).hexdigest()
        else:
            for path in built.values():
                path.unlink(missing_ok=True)
            print(NO_COMPILER, file=sys.stderr)
        record_path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.chdir(ROOT)
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildCore})
