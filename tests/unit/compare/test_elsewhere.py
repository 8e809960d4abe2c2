"""Studies on a cluster whose workers die, and on an S3-compatible server: the same results as at home."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from memtrace.compare import cluster as cluster_module
from memtrace.compare.places import Copies
from memtrace.compare.study import Study, compare
from memtrace.errors import ConfigError, MetricsError
from memtrace.trace import kept
from memtrace.trace.source import open_trace

distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
pytest.importorskip("s3fs", reason="needs the extra cluster")
# What these services' libraries warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

GRID = {"allocator": ["slub", "slab", "slob"], "settings": {"pcp.batch": ("1", "31")}}


def results(study: Study) -> dict[str, str]:
    """SHA-256 of all that a study concludes: dataset and page."""
    files = [*sorted((study.path / "dataset").iterdir()), study.path / "report.html"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


@pytest.fixture(scope="module")
def serial(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return compare(bundled / "hello.csv", **GRID, out=tmp_path_factory.mktemp("serial") / "study")  # type: ignore[arg-type]


@pytest.fixture
def workers() -> Iterator[object]:
    """Three worker processes of one thread each."""
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None,
                                  host="127.0.0.1") as local:
        yield local


def test_a_killed_worker_loses_nothing_and_nothing_counts_twice(
    workers: object, serial: Study, bundled: Path, tmp_path: Path
) -> None:
    killed: list[int] = []
    counted: list[int] = []

    def progress(doing: str, done: int, total: int) -> None:
        if doing != "replaying":
            return
        counted.append(done)
        if done == 1 and not killed:
            killed.append(next(iter(workers.workers.values())).pid)  # type: ignore[attr-defined]
            os.kill(killed[0], signal.SIGKILL)

    folder = tmp_path / "study"
    study = compare(bundled / "hello.csv", **GRID, out=folder, progress=progress,  # type: ignore[arg-type]
                    cluster=workers.scheduler_address)  # type: ignore[attr-defined]
    assert killed
    assert counted == [0, 1, 2, 3, 4, 5, 6]
    assert len(list((folder / "cells").glob("[!.]*"))) == 6
    assert results(study) == results(serial)
    pd.testing.assert_frame_equal(study.measures, serial.measures)
    # The scheduler has forgotten the study: the same again asks the folder, and runs nothing.
    again = compare(bundled / "hello.csv", **GRID, out=folder, report=False,  # type: ignore[arg-type]
                    cluster=workers.scheduler_address)  # type: ignore[attr-defined]
    assert again.ran == 0


def test_a_worker_reads_a_trace_once_for_each_of_its_threads(
    serial: Study, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(kept, "open_trace", lambda path, **more: opened.append(path) or open_trace(path, **more))
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, protocol="tcp",
                                  dashboard_address=None, host="127.0.0.1") as local:
        study = compare(bundled / "hello.csv", **GRID, out=tmp_path / "study", report=False,  # type: ignore[arg-type]
                        cluster=local.scheduler_address)
        assert study.ran == 6 and 1 <= len(opened) <= 2
        assert not [name for name in local.workers[0].plugins if name.startswith("memtrace")]
    pd.testing.assert_frame_equal(study.measures, serial.measures)


def test_workers_with_another_memtrace_are_refused(
    workers: object, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "source_digest", lambda: "another")
    with pytest.raises(ConfigError, match="another memtrace"):
        compare(bundled / "hello.csv", out=tmp_path / "study",
                cluster=workers.scheduler_address)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket of an S3-compatible server on this machine."""
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    import s3fs

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
                            # Nothing of the user's own: neither accounts nor a proxy.
                            ("AWS_CONFIG_FILE", os.devnull), ("AWS_SHARED_CREDENTIALS_FILE", os.devnull),
                            ("NO_PROXY", "*"), ("no_proxy", "*")):  # fmt: skip
            environment.setenv(name, value)
        environment.delenv("AWS_PROFILE", raising=False)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("traces")
        yield "s3://traces"
    server.stop()


def test_traces_and_results_on_s3_are_those_at_home(bucket: str, bundled: Path, tmp_path: Path) -> None:
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.put_file(str(bundled / "hello.csv"), "traces/in/hello.csv")
    study = compare(f"{bucket}/in/hello.csv", allocator=["slub", "slob"], out=f"{bucket}/study")
    at_home = compare(bundled / "hello.csv", allocator=["slub", "slob"], out=tmp_path / "study", report=False)
    assert (study.ran, study.url) == (2, f"{bucket}/study")
    # The trace's address is in the tables; all else is equal.
    mine, home = (pd.read_parquet(one.path / "dataset/caches.parquet") for one in (study, at_home))
    pd.testing.assert_frame_equal(mine.drop(columns="trace"), home.drop(columns="trace"))
    assert list(study.measures["key"]) == list(at_home.measures["key"])
    there = {name.removeprefix("traces/study/") for name in files.find("traces/study")}
    here = {path.relative_to(study.path).as_posix() for path in study.path.rglob("*") if path.is_file()}
    assert there == here
    # A cell without its manifest is half a cell; the rest is used.
    files.rm_file(f"traces/study/cells/{study.measures['key'][1]}/manifest.json")
    again = compare(f"{bucket}/in/hello.csv", allocator=["slub", "slob"], out=f"{bucket}/study", report=False)
    assert again.ran == 1


def test_what_is_not_there_is_one_line(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match=r"^s3://traces/none\.csv"):
        compare(f"{bucket}/none.csv", out=tmp_path / "study")
    with pytest.raises(ConfigError, match="no such scheduler file"):
        compare("traces/hello.csv", cluster=str(tmp_path / "none"), out=tmp_path / "study")


def test_two_addresses_of_one_name_are_two_files() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for folder in ("traces", "snapshots"):
        memory.pipe(f"/{folder}/one", folder.encode())
    with Copies() as copies:
        found = [Path(copies.local(f"memory://{folder}/one")) for folder in ("traces", "snapshots")]
        assert [path.read_text(encoding="utf-8") for path in found] == ["traces", "snapshots"]
    assert not any(path.exists() for path in found)
