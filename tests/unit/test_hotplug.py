"""The words of --hotplug."""

from __future__ import annotations

import pytest

from memtrace.errors import ConfigError
from memtrace.hotplug import HotplugEvent, check_hotplug, parse_hotplug


def test_lists_ranges_and_order() -> None:
    assert parse_hotplug(["cpu3 off @1.5s,cpu3 on @2s", "cpu1-2 offline @10ms"]) == (
        HotplugEvent(10_000_000, 1, False),
        HotplugEvent(10_000_000, 2, False),
        HotplugEvent(1_500_000_000, 3, False),
        HotplugEvent(2_000_000_000, 3, True),
    )
    assert parse_hotplug(["cpu3 off @0"]) == (HotplugEvent(0, 3, False),)
    assert parse_hotplug([]) == parse_hotplug([" "]) == ()


@pytest.mark.parametrize("text", ["3 off @1s", "cpu3 down @1s", "cpu3 off 1s", "cpu3 off @", "cpu3-1 off @1s",
                                  "cpu3 off @soon"])
def test_what_cannot_be_understood_is_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="--hotplug"):
        parse_hotplug([text])


def test_a_machine_needs_a_cpu() -> None:
    with pytest.raises(ConfigError, match="4 CPUs, 0 to 3"):
        check_hotplug(parse_hotplug(["cpu4 off @1s"]), 4)
    with pytest.raises(ConfigError, match=r'"cpu1 off @2000000ns".*last online CPU'):
        check_hotplug(parse_hotplug(["cpu0 off @1ms, cpu1 off @2ms"]), 2)
    check_hotplug(parse_hotplug(["cpu0 off @1ms, cpu0 on @2ms, cpu1 off @2ms"]), 2)
