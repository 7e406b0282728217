"""Names of topologies, and what the vendor publishes of their chips."""

import importlib.util
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.planning import topology
from torl_jax.planning.chips import CHIPS


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts", "host"),
    [
        ("v5e:4x4", 16, 16, 4, "v5e:2x2"),
        ("v5p:2x2x4", 16, 16, 4, "v5p:2x2x1"),
        ("v6e:8x8", 64, 64, 16, "v6e:2x2"),
        ("v4:2x2x4", 16, 32, 4, "v4:2x2x1"),  # a device is a core
        ("tpu7x:2x2x2", 8, 16, 2, "tpu7x:2x2x1"),
        ("cpu:8", 8, 8, 1, "cpu:8"),
    ],
)
def test_slices(name, chips, devices, hosts, host):
    found = topology.parse(name)
    assert (found.chips, found.devices, found.hosts) == (chips, devices, hosts)
    assert found.host.name == host


@pytest.mark.parametrize(
    "name", ["", "v5p", "v5p:", "v9:2x2", "v5p:2x", "v5p:0x2x4", "v5p:2x2x4x4", "cpu:2x2", "v5e:8"]
)
def test_an_unknown_topology_names_the_known_ones(name):
    with pytest.raises(UserError, match=r"known: v4:2x2x1, .*v5p:2x2x4.*cpu:8"):
        topology.parse(name)


def test_a_slice_is_a_whole_number_of_hosts():
    for name in topology.KNOWN:
        found = topology.parse(name)
        assert found.hosts * math.prod(found.host.shape) == found.chips


@given(st.text(max_size=12))
def test_any_text_is_a_slice_or_a_user_error(name):
    try:
        assert topology.parse(name).chips > 0
    except UserError as error:
        assert "\n" not in str(error).replace(repr(name), "")


def test_without_the_compiler_a_tpu_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*plan.*libtpu"):
        topology.prepare(topology.parse("v5e:4x4"))


def test_peaks_are_of_the_right_size():
    for chip in CHIPS.values():
        if chip.known:
            # A device may not be given more than the chip has.
            assert chip.usable_gib * chip.devices <= chip.hbm_gib * 1.01
            assert 100 < chip.flops / chip.hbm_bandwidth < 1000
