"""The cost table: every class has a price and a source, and a bad file is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.errors import ConfigError
from memtrace.mm.paths import COSTS
from memtrace.schedule.costs import Cost, CostTable


def written(folder: Path, **changes: str | None) -> Path:
    """A cost table with every class, some tables replaced or (None) left out."""
    texts = {name: "fixed_ns = 2\nper_ns = 1\nsource = 'a paper'\nassumed = false" for name in COSTS}
    path = folder / "costs.toml"
    path.write_text("\n".join(f"[{name}]\n{text}" for name, text in {**texts, **changes}.items() if text is not None))
    return path


def test_the_table_that_comes_with_memtrace() -> None:
    table = CostTable.load()
    assert [cost.name for cost in table.costs] == list(COSTS)
    assert all(cost.source for cost in table.costs)
    assert {"slub_cpu_partial", "pcp_hit", "slub_new_slab"} <= set(table.assumed)
    assert {"slub_fast", "zero_page", "slub_cold_line"}.isdisjoint(table.assumed)
    assert len(table.as_rows()) == len(COSTS)
    assert set(table.as_rows()[0]) == {"name", "fixed_ns", "per_ns", "assumed", "source"}


@pytest.mark.parametrize(("fixed", "per", "count", "ns"), [
    (5.5, 0, 0, 6), (5.4, 0, 9, 5), (0, 0, 7, 1), (0, 1, 0, 1), (14, 8, 3, 38), (0.25, 0.25, 5, 2), (0, 299, 8, 2392),
])
def test_step_ns(fixed: float, per: float, count: int, ns: int) -> None:
    """Rounded half up, and at least 1 ns."""
    table = CostTable((Cost("slub_fast", fixed, per, False, "x"),), "test")
    assert table.step_ns(0, count) == ns


@pytest.mark.parametrize(("changes", "message"), [
    ({"slub_fast": None}, r"no table for slub_fast"),
    ({"slub_fats": "fixed_ns = 1"}, r'no cost class "slub_fats"; did you mean "slub_fast"'),
    ({"slub_fast": "fixed_ns = 1\nper_nss = 2"}, r'\[slub_fast\]: no key "per_nss"; did you mean "per_ns"'),
    ({"slub_fast": "fixed_ns = 1"}, r"\[slub_fast\] has no per_ns"),
    ({"slub_fast": "fixed_ns = -1\nper_ns = 0"}, r"fixed_ns = -1; expected 0 to"),
    ({"slub_fast": "fixed_ns = nan\nper_ns = 0"}, r"fixed_ns = nan; expected 0 to"),
    ({"slub_fast": "fixed_ns = 1e10\nper_ns = 0"}, r"expected 0 to 1000000000 ns"),
    ({"slub_fast": "fixed_ns = true\nper_ns = 0"}, r"fixed_ns = True; expected"),
    ({"slub_fast": "fixed_ns = '1'\nper_ns = 0"}, r"fixed_ns = '1'; expected"),
    ({"slub_fast": "fixed_ns = 1\nper_ns = 0\nassumed = 'no'"}, r"assumed = 'no'; expected true or false"),
    ({"slub_fast": "fixed_ns = 1\nper_ns = 0\nsource = 7"}, r"source = 7; expected a text"),
    ({"slub_fast": "= 3"}, r"not TOML"),
])
def test_bad_tables(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as error:
        CostTable.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        CostTable.load(tmp_path / "none.toml")


def test_a_price_without_a_source_is_assumed(tmp_path: Path) -> None:
    path = written(tmp_path, slub_fast="fixed_ns = 1\nper_ns = 0\nassumed = false")
    assert CostTable.load(path).assumed == ["slub_fast"]
