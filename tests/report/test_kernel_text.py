"""The formats of /proc: real kernels' files, taken apart and put together again, come out byte for byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memtrace.errors import MetricsError
from memtrace.report import kernel_text as kt
from memtrace.report.frames import RunFrames

SNAPSHOTS = ["linux-6.18_find_tar/snapshots/start", "linux-6.18_find_tar/snapshots/end"] + [
    f"{run}/snapshots/{when}"
    for run in ("slub_std_512m", "slub_std_numa2_1g", "slub_press_256m", "i386_slub_std_1536m")
    for when in ("start", "after", "end")
]


def ints(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def again_slabinfo(text: str) -> str:
    lines = text.splitlines(keepends=True)
    out = ["".join(lines[:2]) if "".join(lines[:2]) == kt.SLABINFO_HEADER else "another header"]
    for line in lines[2:]:
        name, objects, tunables, slabdata = re.fullmatch(
            r"(\S+)([ \d]+) : tunables ([ \d]+) : slabdata ([ \d]+)\n", line).groups()
        out.append(kt.slabinfo_line(name, *ints(objects), ints(tunables), ints(slabdata)))
    return "".join(out)


def again_buddyinfo(text: str) -> str:
    parts = [re.fullmatch(r"Node (\d+), zone +(\S+)([ \d]+)", line).groups() for line in text.splitlines()]
    return "".join(kt.buddyinfo_line(int(node), zone, ints(counts)) for node, zone, counts in parts)


def again_pagetypeinfo(text: str) -> str:
    out, order = [], -1
    for line in text.splitlines():
        if line.startswith("Page block order"):
            order = int(line.split()[-1])
        elif line.startswith("Free pages"):
            out.append(kt.pagetypeinfo_header(order, len(line.split("order")[1].split())))
        elif line.startswith("Number of blocks"):
            out.append(kt.pagetypeinfo_blocks_header(line.split()[4:]))
        elif match := re.fullmatch(r"Node +(\d+), zone +(\S+), type +(\S+)([ >\d]+)", line):
            counts = ints(match[4].replace(">", " "))
            out.append(kt.pagetypeinfo_line(int(match[1]), match[2], match[3], counts))
        elif match := re.fullmatch(r"Node (\d+), zone +(\S+)([ \d]+)", line):
            out.append(kt.pagetypeinfo_blocks_line(int(match[1]), match[2], ints(match[3])))
    return "".join(out)


def again_zoneinfo(text: str) -> str:
    """Every line of a 6.1 zoneinfo through its function; what no function writes is kept out."""
    out: list[str] = []
    cpu: list[int] = []
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if match := re.fullmatch(r"Node (\d+), zone +(\S+)", line):
            out.append(kt.zoneinfo_zone(int(match[1]), match[2]))
        elif line in ("  per-node stats", "  pagesets"):
            out.append(line + "\n")
        elif line.startswith("      nr_") or re.match(r"      (numa|workingset)_", line):
            out.append(kt.zoneinfo_stat(words[0], int(words[1])))
        elif words[0] == "pages":
            out.append(kt.zoneinfo_pages("free", int(words[2])))
        elif words[0] == "protection":
            out.append(kt.zoneinfo_protection(int(word) for word in re.findall(r"\d+", line)))
        elif words[0] == "cpu":
            cpu = [int(words[1])]
        elif words[0] in ("count", "high", "batch") and line.startswith("              "):
            cpu.append(int(words[1]))
        elif words[0] == "vm":
            out.append(kt.zoneinfo_cpu(*cpu, int(words[-1])))
        elif words[0] == "node_unreclaimable":
            unreclaimable = int(words[1])
        elif words[0] == "start_pfn":
            out.append(kt.zoneinfo_end(unreclaimable, int(words[1])))
        else:
            out.append(kt.zoneinfo_pages(words[0], int(words[1])))
    return "".join(out)


AGAIN = {"slabinfo": again_slabinfo, "buddyinfo": again_buddyinfo, "pagetypeinfo": again_pagetypeinfo,
         "zoneinfo": again_zoneinfo}


@pytest.mark.parametrize("file", AGAIN)
@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_real_files_come_out_byte_for_byte(ground_truth: Path, snapshot: str, file: str) -> None:
    path = ground_truth / snapshot / file
    if not path.is_file():
        pytest.skip(f"the recording has no {snapshot}/{file}")
    if file == "zoneinfo" and "6.18" in snapshot:
        pytest.skip("6.18 prints more lines a CPU than 6.1, the kernel that is modelled")
    text = path.read_text(encoding="ascii")
    assert len(text.splitlines()) > 1
    assert AGAIN[file](text) == text


def test_stat_thresholds_are_the_kernels(ground_truth: Path) -> None:
    seen = 0
    for snapshot in SNAPSHOTS:
        text = (ground_truth / snapshot / "zoneinfo").read_text(encoding="ascii")
        cpus = len(set(re.findall(r"^    cpu: (\d+)", text, re.MULTILINE)))
        for zone in text.split("\nNode "):
            managed = int(re.search(r"managed +(\d+)", zone)[1])
            for threshold in re.findall(r"vm stats threshold: (\d+)", zone):
                assert kt.stat_threshold(managed, cpus) == int(threshold)
                seen += 1
    assert seen > 50


@pytest.mark.parametrize("file", AGAIN)
@pytest.mark.parametrize("shape", ["normal", "tiny", "empty", "hostile"])
def test_a_runs_files_parse_as_the_kernels_do(folder_of, shape: str, file: str) -> None:
    _, text = kt.render(RunFrames(folder_of(shape)), file, None)
    assert text and AGAIN[file](text) == text


def test_files_hold_the_tables_numbers(folder_of) -> None:
    run = RunFrames(folder_of("normal"))
    t_ns, text = kt.render(run, "slabinfo", None)
    last = run.sample("caches", t_ns)
    names = [line.split()[0] for line in text.splitlines()[2:]]
    assert names == last["cache"].tolist()[::-1], "newest cache first"
    assert [int(line.split()[1]) for line in text.splitlines()[2:]] == last["active_objs"].tolist()[::-1]
    _, text = kt.render(run, "buddyinfo", None)
    pages = sum(count << order for line in text.splitlines() for order, count in enumerate(ints(line[22:])))
    assert pages == run.sample("zones", t_ns)["free_pages"].sum()
    _, text = kt.render(run, "pagetypeinfo", None)
    rows = [line for line in text.splitlines() if ", type " in line]
    assert sum(count << order for row in rows for order, count in enumerate(ints(row[44:]))) == pages
    _, text = kt.render(run, "zoneinfo", None)
    assert ints(" ".join(re.findall(r"pages free +(\d+)", text))) == run.sample("zones", t_ns)["free_pages"].tolist()
    assert text.count("    cpu: ") == len(run.sample("pcp", t_ns))


def test_counts_beyond_a_hundred_thousand_are_cut(folder_of) -> None:
    assert kt.pagetypeinfo_line(0, "Normal", "Movable", [99_999, 100_000, 250_000]) == (
        "Node    0, zone   Normal, type      Movable  99999 >100000 >100000 \n")


def test_at_takes_the_last_sample_before(folder_of) -> None:
    run = RunFrames(folder_of("tiny"))
    times = [int(t) for t in run.sample_times("caches")]
    assert kt.render(run, "slabinfo", times[2])[0] == times[2]
    assert kt.render(run, "slabinfo", times[3] - 1)[0] == times[2]
    assert kt.render(run, "slabinfo", 10**15)[0] == times[-1]
    with pytest.raises(MetricsError, match=f"no sample at or before {times[0] - 1} ns.*at least {times[0]} ns"):
        kt.render(run, "buddyinfo", times[0] - 1)
