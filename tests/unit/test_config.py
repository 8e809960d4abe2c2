"""Are configurations checked where they are made?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.config import KernelConfig, MachineConfig, ReplayConfig, ZoneConfig
from memtrace.errors import ConfigError

DMA = ZoneConfig(0, "DMA", 0, 1, 4095, 3998, 3840)
DMA32 = ZoneConfig(0, "DMA32", 1, 4096, 100_000, 100_000, 90_000)


def machine(**changes: object) -> MachineConfig:
    given_ = {"name": "m", "cpus": 2, "node_cpus": ((0, 1),), "zones": (DMA, DMA32), **changes}
    return MachineConfig(**given_)  # type: ignore[arg-type]


def test_what_is_left_out_is_filled_in() -> None:
    one = machine()
    assert (one.possible_cpus, one.distance, one.nodes, one.managed_pages) == (2, ((10,),), 1, 93_840)
    two = machine(node_cpus=((0,), (1,)), possible_cpus=8)
    assert (two.possible_cpus, two.distance) == (8, ((10, 20), (20, 10)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cpus": 0, "node_cpus": ((),)}, "0 CPUs"),
        ({"cpus": 3}, "node_cpus names CPUs"),
        ({"node_cpus": ((0, 0, 1),)}, "node_cpus names CPUs"),
        ({"zones": ()}, "no zones"),
        ({"zones": (DMA32, DMA)}, "out of order"),
        ({"zones": (DMA, DMA)}, "out of order"),
        ({"zones": (DMA, replace(DMA32, start_pfn=4000))}, "inside node 0 zone DMA"),
        ({"zones": (replace(DMA, managed=3999),)}, "managed 3999"),
        ({"zones": (replace(DMA, present=4096, managed=0),)}, "managed 0"),
        ({"zones": (replace(DMA, node=1),)}, "does not exist"),
        ({"zones": (replace(DMA, index=9),)}, "does not exist"),
        ({"distance": ((10, 20),)}, "distance"),
        ({"holes": ((9, 9),)}, "hole 9..9"),
    ],
)
def test_an_impossible_machine_is_refused(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        machine(**changes)
    assert "\n" not in str(caught.value)


def test_settings_are_applied_by_type() -> None:
    kernel = KernelConfig()
    assert kernel.with_setting("slub.cpu_partial", "0").slub.cpu_partial == 0
    assert kernel.with_setting("slub.freelist_random", "yes").slub.freelist_random is True
    assert kernel.with_setting("vm.lowmem_reserve_ratio", "1:2:3:4:5").vm.lowmem_reserve_ratio == (1, 2, 3, 4, 5)
    assert kernel.slub.cpu_partial == -1


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_wrong_setting_is_a_config_error(key: str, value: str) -> None:
    with pytest.raises(ConfigError):
        KernelConfig().with_setting(key, value)


@pytest.mark.parametrize("value", ["x", "1.5", "", "True!"])
def test_a_value_of_the_wrong_type_names_the_value_it_has(value: str) -> None:
    with pytest.raises(ConfigError, match="it is -1 now"):
        KernelConfig().with_setting("slub.cpu_partial", value)
    with pytest.raises(ConfigError, match="it is False now"):
        KernelConfig().with_setting("slub.freelist_random", value)


def test_the_manifest_form_is_plain_data() -> None:
    plain = ReplayConfig(machine()).as_dict()
    assert plain["machine"]["zones"][0]["name"] == "DMA"
    assert plain["kernel"]["slub"]["max_order"] == 3
