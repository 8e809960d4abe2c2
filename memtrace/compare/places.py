"""Traces and results that lie elsewhere: s3://, gs:// and whatever else fsspec knows."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import ConfigError, MetricsError
from ..files import scratch_folder
from ..metrics.run_folder import MANIFEST

_INSTALL = "Install it with `pip install 'kmem-memtrace[cluster]'`."


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address like s3://bucket/name; file:// is not."""
    return "://" in str(path) and not str(path).startswith("file://")


def local(path: str | Path) -> str:
    """A path of this machine, absolute, without file://; addresses stay as they are."""
    text = str(path)
    return text if is_remote(text) else str(Path(text.removeprefix("file://")).absolute())


def base_name(path: str | Path) -> str:
    """The last part of a path or address."""
    return PurePosixPath(str(path)).name


def needed(module: str) -> Any:
    """Import a package of the extra ``cluster``; ConfigError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"the package {module} is missing; expected it for clusters and remote paths. "
                          f"{_INSTALL}") from None


class Remote:
    """
    A folder that fsspec reaches.

    Every error of the service, whatever library it comes from, is a MetricsError with the address.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with _told(self.url):
            # Listings are never kept: other machines write here.
            fs, root = needed("fsspec").core.url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        self._fs, self._root = fs, root

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there."""
        with _told(f"{self.url}/{name}"):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(name)))

    def empty(self) -> bool:
        """Whether there is nothing at all below the address."""
        with _told(self.url):
            self._fs.invalidate_cache()
            return not self._fs.find(self._root)

    def get(self, name: str, target: Path) -> None:
        """Copy a file, or a folder with all in it, to ``target`` (which must not exist)."""
        with _told(f"{self.url}/{name}"):
            self._fs.invalidate_cache()
            top = self._at(name)
            files = self._fs.find(top)
            if not files:
                raise FileNotFoundError("there is nothing")
            below = [file[len(top):].lstrip("/") for file in files]
            places = [target / path if path else target for path in below]
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
            # All at once: what takes long is to ask, and stores answer many at a time.
            self._fs.get(files, [str(place) for place in places])

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy files there, by name; object stores show each whole or not at all."""
        with _told(self.url):
            for folder in {self._at(name).rpartition("/")[0] for name in files}:
                self._fs.makedirs(folder, exist_ok=True)
            self._fs.put([str(path) for path in files.values()], [self._at(name) for name in files])

    def put_run(self, folder: Path, name: str) -> None:
        """Copy a run folder there, its manifest last: without one it is not complete, and is written again."""
        files = {f"{name}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*"))
                 if path.is_file() and path.name != MANIFEST}
        self.put(files)
        self.put({f"{name}/{MANIFEST}": folder / MANIFEST})

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    """Turn what any storage library raises into one line with the place."""
    try:
        yield
    except (ConfigError, MetricsError):
        raise
    except Exception as error:  # each of fsspec's file systems has errors of its own
        what = " ".join(str(error).split()) or type(error).__name__
        raise MetricsError(f"{place}: {what}; expected a place that can be read and written. Check the address and "
                           "the credentials.") from None


class Copies:
    """
    Copies of what lies elsewhere, each made once. A context manager: they are gone when it ends.

    Parameters
    ----------
    folder
        Where they are, or are to be; they stay there. When not given a folder of its own, made when it is needed.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._own: TemporaryDirectory[str] | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def folder(self) -> str | None:
        """Where they are; None when there is none yet."""
        return self._folder

    def local(self, path: str | Path) -> str:
        """
        A path of this machine for any path: what lies elsewhere is copied under its own name.

        Raises
        ------
        MetricsError
            It cannot be read.
        """
        if not is_remote(path):
            return local(path)
        with self._one_at_a_time:
            if self._folder is None:
                self._own = scratch_folder("memtrace-copies-")
                self._folder = self._own.name
            # A trace and a snapshot may have one name; each address has a folder of its own.
            folder = Path(self._folder, hashlib.sha256(str(path).encode()).hexdigest()[:16])
            target = folder / base_name(path)
            if not target.exists():
                folder.mkdir(parents=True, exist_ok=True)
                part = folder / f".part-{base_name(path)}"
                Remote(str(path)).get("", part)
                part.rename(target)
            return str(target)

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.cleanup()
            self._own = self._folder = None
