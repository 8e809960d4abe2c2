"""Are kernel profiles what their files say, is every switch explained, and is what is wrong with one said?"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.info import command
from memtrace.config import KernelConfig
from memtrace.errors import ConfigError
from memtrace.kernels import check_allocator, kernel_names, load_kernel, load_profile, read_profile
from memtrace.run import replay

PARTS = KernelConfig().components()
SETTINGS = {f"{part}.{f.name}": f for part, params in PARTS.items() for f in fields(params)}


def value(kernel: KernelConfig, key: str) -> object:
    part, _, name = key.partition(".")
    return getattr(kernel.components()[part], name)


def test_the_profile_6_1_is_the_default_kernel() -> None:
    assert load_kernel("6.1") == KernelConfig()


def test_profiles_are_sorted_by_version() -> None:
    names = kernel_names()
    assert "6.1" in names
    assert names == sorted(names, key=lambda name: tuple(map(int, name.split("."))))


@pytest.mark.parametrize("name", kernel_names())
def test_a_profile_changes_what_it_names_and_nothing_else(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name == profile.config.name
    assert profile.description
    assert profile.not_modelled
    base = KernelConfig()
    changed = {key for key in SETTINGS if value(profile.config, key) != value(base, key)}
    assert changed == profile.changed


@pytest.mark.parametrize("name", ["6.19", "", "../kernels/6.1", "6.1.toml"])
def test_a_missing_profile_says_which_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"6\.1") as caught:
        load_kernel(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", SETTINGS)
def test_every_switch_is_explained(key: str) -> None:
    about = SETTINGS[key].metadata
    assert len(about["meaning"]) > 10
    default = SETTINGS[key].default
    if about["choices"]:
        assert default in about["choices"]
    if default == -1:
        assert about["auto"]
    for kernel in kernel_names():
        assert f"{key} = " in info("--kernel", kernel)


@pytest.mark.parametrize("key", SETTINGS)
def test_every_switch_can_be_set(key: str) -> None:
    field = SETTINGS[key]
    default = field.default
    if field.metadata["choices"]:
        tries = dict(zip(field.metadata["choices"], field.metadata["choices"], strict=True))
    elif isinstance(default, bool):
        tries = {"yes": True, "no": False}
    elif isinstance(default, tuple):
        tries = {":".join(map(str, reversed(default))): tuple(reversed(default))}
    else:
        usual = 4096 if field.metadata["power_of_two"] else 12345
        tries = {str(number): number for number in (min(usual, field.metadata["most"]), field.metadata["least"])}
    for text, expected in tries.items():
        assert value(KernelConfig().with_setting(key, text), key) == expected


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("slub.cpu_partal", "3", "did you mean slub.cpu_partial?"),
        ("slub.min_order", "99", "expected 0 to 10"),
        ("slup.order_rule", "6.1", "did you mean slub.order_rule?"),
        ("cpu_partial", "3", "no such setting"),
        ("vm", "3", "no such setting"),
        ("vm.fallback", "claim-steal", "did you mean claim_steal?"),
        ("vm.fallback", "", "not one of"),
        ("slub.merge", "maybe", "not yes or no"),
        ("slub.cpu_partial", "-2", "out of range"),
        ("slub.max_order", "1.5", "not a whole number"),
        ("pcp.batch", "99999999999", "out of range"),
        ("vm.lowmem_reserve_ratio", "1:2:x", "not a list like 256:256:32:0:0"),
        ("vm.lowmem_reserve_ratio", "1:2", "not a list like"),
        ("memcg", "perhaps", "not yes or no"),
    ],
)
def test_a_wrong_setting_says_what_is_right(key: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("?", r"\?")) as caught:
        KernelConfig().with_setting(key, text)
    assert str(caught.value).startswith(f"--set {key}={text}: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[slub]\nmax_ordr = 1", "did you mean max_order"),
        ("[slub]\nmax_order = true", "slub.max_order = True"),
        ('[vm]\nfallback = "none"', "not one of"),
        ("[pcp]\nbatch = -7", "out of range"),
        ("slubb = 1", "did you mean slub"),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "1.0.toml"
    path.write_text(f'description = "x"\nallocators = ["slub"]\nnot_modelled = ["y"]\n{text}\n')
    with pytest.raises((ConfigError, ValueError), match=expected):
        read_profile(path)


def test_a_kernel_knows_its_allocators() -> None:
    for name in kernel_names():
        for allocator in load_profile(name).allocators:
            check_allocator(name, allocator)
    check_allocator("6.1", "no such thing")  # refused elsewhere


def info(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_info_lists_the_profiles() -> None:
    lines = info("--kernels").splitlines()
    assert [line.split()[0] for line in lines] == kernel_names()


def test_info_wants_one_thing() -> None:
    for arguments in ([], ["trace.csv", "--kernels"], ["--kernels", "--kernel", "6.1"]):
        assert CliRunner().invoke(command, arguments).exit_code == 2


def test_a_wrong_setting_stops_a_replay_before_it_reads_the_trace() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        replay("no-such-trace.csv", settings=["slub.max_ordre=1"])
