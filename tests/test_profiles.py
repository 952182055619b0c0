import re
from dataclasses import asdict
from pathlib import Path

import pytest

from hybrid import profiles
from hybrid.configure import to_toml
from hybrid.errors import SpecError
from hybrid.work import MAC_KINDS

FOLDER = Path(profiles.__file__).parent


def test_the_promised_names_are_there():
    promised = {"stm32f746", "stm32h743", "stm32l4r5", "stm32u575", "nrf52840", "rp2040", "esp32-s3"}
    assert promised <= set(profiles.devices())
    assert {"wifi", "lte", "lte-m", "nb-iot", "ble"} <= set(profiles.links())


@pytest.mark.parametrize("profile", [*profiles.devices().values(), *profiles.links().values()], ids=lambda p: p.name)
def test_every_profile_names_its_file_and_its_source(profile):
    assert profile in (profiles.devices() | profiles.links()).values()
    assert (profiles.devices() | profiles.links())[profile.name] is profile
    assert len(profile.source) > 20


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.toml")), ids=lambda p: p.stem)
def test_every_figure_has_its_source_beside_it(path):
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"(clock_mhz|name|title|core|source) =", line) or line.startswith("#") or "#" in line:
            continue
        above = [other for other in lines[:number] if other.startswith("#") or not re.match(r"\w+ = [\d{]", other)]
        assert above[-1].startswith("#"), f"{path.name}: {line}"


@pytest.mark.parametrize("device", profiles.devices().values(), ids=lambda d: d.name)
def test_device_figures_are_possible(device):
    assert set(device.cycles_per_mac) == set(MAC_KINDS)
    assert all(0.5 < cycles < 50 for cycles in device.cycles_per_mac.values())
    assert 0 < device.reserved_flash_bytes < device.flash_bytes
    assert 0 < device.reserved_sram_bytes < device.sram_bytes
    assert 0 < device.sleep_power_mw < device.power_mw
    assert 0 < device.latency_band <= 0.6
    assert 1 < device.ragged_penalty < 4
    assert 0 <= device.cycles_per_output < device.cycles_per_element or device.core == "Xtensa LX7"


@pytest.mark.parametrize("link", profiles.links().values(), ids=lambda link: link.name)
def test_link_figures_are_possible(link):
    assert all(value >= 0 for key, value in asdict(link).items() if key not in ("name", "title", "source"))
    assert 0 < link.rtt_min_ms < link.rtt_mean_ms
    assert 0 <= link.loss < 0.1


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(SpecError, match=r"device: unknown 'stm32f764'; did you mean stm32f746\?"):
        profiles.device("stm32f764")
    with pytest.raises(SpecError, match=r"link: unknown '5g'.*Allowed: ble, lte, lte-m, nb-iot, wifi; or give a path"):
        profiles.link("5g")


def test_ones_own_profile_is_a_toml_file(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(to_toml(profiles.link("wifi")).replace('name = "wifi"', 'name = "mine"'))
    assert profiles.link(mine).name == "mine"
    mine.write_text("colour = 3\n")
    with pytest.raises(SpecError, match="unknown key 'colour'"):
        profiles.link(str(mine))
    with pytest.raises(SpecError, match="cannot be read"):
        profiles.device(tmp_path / "absent.toml")


def test_a_device_without_a_kind_of_layer_is_refused(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(re.sub(r"(?m)^dense = .*$", "", to_toml(profiles.device("stm32f746"))))
    with pytest.raises(SpecError, match="cycles_per_mac lacks dense"):
        profiles.device(mine)


@pytest.mark.parametrize(
    ("read", "name", "key", "value", "said"),
    [
        (profiles.link, "wifi", "uplink_kbps", "0", "uplink_kbps: got 0.0, allowed above 0"),
        (profiles.link, "wifi", "loss", "1.0", "loss: got 1.0, allowed 0 to 0.99"),
        (profiles.link, "wifi", "rtt_mean_ms", "-1", "rtt_mean_ms: got -1.0, allowed 0 or more"),
        (profiles.link, "wifi", "wake_ms", "nan", "wake_ms: got nan, allowed 0 or more"),
        (profiles.device, "stm32f746", "clock_mhz", "0", "clock_mhz: got 0.0, allowed above 0"),
        (profiles.device, "stm32f746", "sram_bytes", "-4", "sram_bytes: got -4, allowed 1 or more"),
        (profiles.device, "stm32f746", "conv", "0", "cycles_per_mac.conv: got 0.0, allowed above 0"),
        (profiles.cloud, "cpu", "latency_ms", "-3", "latency_ms: got -3.0, allowed 0 or more"),
    ],
)
def test_a_figure_that_nothing_can_have_is_refused(tmp_path, read, name, key, value, said):
    mine = tmp_path / "mine.toml"
    text, changed = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", to_toml(read(name)))
    assert changed == 1
    mine.write_text(text)
    with pytest.raises(SpecError) as refused:
        read(mine)
    assert str(refused.value) == f"{mine}: {said}"


def test_two_profiles_of_one_name_are_one_where_they_are_the_same(tmp_path):
    wifi, lte = profiles.link("wifi"), profiles.link("lte")
    assert list(profiles.by_name([wifi, lte, wifi], key="sweep.links")) == ["wifi", "lte"]
    mine = tmp_path / "mine.toml"
    mine.write_text(re.sub(r"(?m)^wake_ms = .*$", "wake_ms = 7.0", to_toml(wifi)))
    with pytest.raises(SpecError, match=r"^sweep\.links: two profiles are named 'wifi'; give one"):
        profiles.by_name([wifi, profiles.link(mine)], key="sweep.links")
