"""Pictures of a kernel called by hand: they show what the views say, where they are told to."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

import memtrace as mt
from memtrace.mm.boot import ALLOCATORS


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No window, and no figure left behind."""
    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(before)


def boxes(ax: Axes, colour: str = "") -> list[tuple[float, float]]:
    """(left, width) of what is filled, or filled with this colour, in the order of drawing."""
    filled = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_facecolor()[3] > 0]
    return [(p.get_x(), p.get_width()) for p in filled if not colour or to_hex(p.get_facecolor()) == colour.lower()]


def words(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def ticks(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def test_a_split_leaves_one_free_block_of_each_order_and_a_merge_takes_them_back() -> None:
    k = mt.Kernel(memory="64M")
    page = k.alloc_pages(mt.GFP_KERNEL, 4)
    ax = k.plot.buddy(page, 8, least=3)
    assert boxes(ax, "#ffffff") == [(16, 16), (32, 32), (64, 64), (128, 128)]
    assert boxes(ax, "#0072B2") == [(0, 16)]
    assert words(ax) == ["free", "in use, unmovable"]
    assert ticks(ax)[0] == "order 3  32 KiB"
    k.free_pages(page, 4)
    _, own = pyplot.subplots()
    assert k.plot.buddy(page, 8, ax=own, legend=False, title="merged") is own
    assert (boxes(own), own.get_title(), words(own)) == ([(0, 256)], "merged", [])


def test_a_window_within_a_larger_block_is_filled_by_it() -> None:
    k = mt.Kernel(memory="64M")
    assert boxes(k.plot.buddy(0x1000 + 77, 4)) == [(0, 16)]


def test_small_blocks_can_be_left_out() -> None:
    k = mt.Kernel(cpus=2, memory="512M")
    page = k.alloc_pages(mt.GFP_KERNEL, 0)
    every, large = k.plot.buddy(page, 8), k.plot.buddy(page, 8, least=4)
    assert min(width for _, width in boxes(every)) == 1
    assert "on a CPU's list" in words(every)
    assert min(width for _, width in boxes(large)) >= 16
    assert "on a CPU's list" not in words(large)


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_every_piece_of_every_slab_is_drawn(allocator: str) -> None:
    k = mt.Kernel(cpus=2, memory="64M", allocator=allocator)
    cache = k.kmem_cache_create("probe", 600, ctor=True)
    assert cache is not None
    objects = [k.kmem_cache_alloc(cache, cpu=i % 2) for i in range(30)]
    k.kmalloc(100)
    for p in objects[::3]:
        k.kmem_cache_free(cache, p)
    views = k.slabs(cache)
    ax = k.plot.slabs(cache)
    assert boxes(ax) == [(piece.offset, piece.size) for view in views for piece in view.pieces]
    assert len(boxes(ax, "#0072B2")) == 20
    assert ticks(ax) == [f"{view.pfn << 12:#x}\n{view.place}" for view in views]
    assert ax.get_title().startswith(f"{allocator.upper()}, probe: {len(views)} ")
    assert len(boxes(k.plot.slabs())) > len(boxes(ax)), "and the kmalloc"


def test_objects_in_sheaves_are_their_cpus() -> None:
    k = mt.Kernel(cpus=2, memory="64M", kernel="6.18")
    cache = k.kmem_cache_create("vm_area_struct", 176)
    assert cache is not None
    for cpu in range(2):
        k.kmem_cache_free(cache, k.kmem_cache_alloc(cache, cpu=cpu), cpu=cpu)
    pieces = [piece for view in k.slabs(cache) for piece in view.pieces if piece.state == "cached"]
    assert {piece.cpu for piece in pieces} == {0, 1}


def test_every_possible_cpu_has_its_copy_at_the_same_offset() -> None:
    k = mt.Kernel(cpus=3, memory="64M", settings=["percpu.possible_cpus=4"])
    assert boxes(k.plot.percpu()) == []
    sizes = {k.alloc_percpu(size): size for size in (8, 64, 4, 200, 3000)}
    gone = list(sizes)[1]
    k.free_percpu(gone)
    del sizes[gone]
    k.cpu_offline(1)
    areas = k.percpu_areas()
    assert dict(zip(areas.ptr, areas["size"], strict=True)) == sizes
    ax = k.plot.percpu()
    row = [(offset, size) for offset, size in zip(areas.offset, areas["size"], strict=True)]
    assert [box for box in boxes(ax) if box in row] == row * 4
    assert len(boxes(ax)) == 4 * (1 + len(row)), "and the unit itself"
    assert ticks(ax) == ["CPU 0", "CPU 1\noffline", "CPU 2", "CPU 3\nonly possible"]
    for p, offset in zip(areas.ptr, areas.offset, strict=True):
        assert k.per_cpu_ptr(p, 2) % (512 << 10) == offset


def test_an_empty_cache_and_one_of_very_many_slabs() -> None:
    k = mt.Kernel(memory="64M")
    cache = k.kmem_cache_create("probe", 4000, ctor=True)
    assert cache is not None
    assert boxes(k.plot.slabs(cache)) == []
    for _ in range(500):
        k.kmem_cache_alloc(cache)
    ax = k.plot.slabs("probe")
    assert len(ticks(ax)) == 24
    assert "more not shown" in ax.get_title()


def test_what_is_not_there_is_named() -> None:
    k = mt.Kernel(memory="64M")
    for call, message in [
        (lambda: k.plot.slabs("no-such"), "cache no-such; expected"),
        (lambda: k.plot.buddy(-1), "pfn -0x1"),
        (lambda: k.plot.buddy(1 << 30), "0x40000000"),
        (lambda: k.plot.buddy(0, 11), "order 11"),
        (lambda: k.plot.buddy(0, 3, least=4), "least 4"),
        (lambda: k.blocks(0, -1), "order -1"),
    ]:
        with pytest.raises(mt.MisuseError, match=message):
            call()
