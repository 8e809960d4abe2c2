"""--hotplug on the command line."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from memtrace.cli.main import cli


def test_a_cpu_goes_and_the_report_says_who_did_its_work(bundled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(cli, ["replay", str(bundled / "build-and-serve-6.18-first20k.csv"), "-o", str(out),
                                      "--no-report", "--hotplug", "cpu1 off @10ms", "--hotplug", "cpu1 on @20ms"])
    assert result.exit_code == 0, result.output
    assert "operations of offline CPUs were done by the next online CPU" in result.output


def test_one_clear_line(bundled: Path, tmp_path: Path) -> None:
    for text, words in (("cpu1 gone", 'like "cpu3 off @1.5s"'), ("cpu9 off @1s", "the machine has 2 CPUs"),
                        ("cpu0-1 off @1s", "last online CPU")):
        result = CliRunner().invoke(cli, ["replay", str(bundled / "build-and-serve-6.18-first20k.csv"), "-o",
                                          str(tmp_path / "run"), "--hotplug", text])
        assert result.exit_code != 0
        assert words in str(result.exception)
        assert not (tmp_path / "run").exists()
