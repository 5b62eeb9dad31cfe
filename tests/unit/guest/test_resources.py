"""OCI resources as files of cgroup v2."""

import re

import pytest
from hypothesis import given

from gcs.guest.resources import cgroup_settings
from tests.support.strategies import json_trees

GIB = 1024**3


@pytest.mark.parametrize(
    ("resources", "files"),
    [
        ({}, {}),
        ({"memory": {"limit": GIB}}, {"memory.max": str(GIB)}),
        (
            {"memory": {"limit": -1, "swap": -1}},
            {"memory.max": "max", "memory.swap.max": "max"},
        ),
        ({"memory": {"limit": 0, "reservation": 5}}, {"memory.low": "5"}),
        (
            {"memory": {"limit": GIB, "swap": 3 * GIB}},
            {"memory.max": str(GIB), "memory.swap.max": str(2 * GIB)},
        ),
        (
            {"memory": {"limit": GIB, "swap": GIB}},
            {"memory.max": str(GIB), "memory.swap.max": "0"},
        ),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": "39"}),
        ({"cpu": {"shares": 2}}, {"cpu.weight": "1"}),
        ({"cpu": {"shares": 262_144}}, {"cpu.weight": "10000"}),
        ({"cpu": {"shares": 1}}, {"cpu.weight": "1"}),
        ({"cpu": {"shares": 2**60}}, {"cpu.weight": "10000"}),
        ({"cpu": {"shares": 0, "quota": 0, "period": 0}}, {}),
        ({"cpu": {"quota": -1, "period": 0}}, {"cpu.max": "max 100000"}),
        ({"cpu": {"quota": 5000}}, {"cpu.max": "5000 100000"}),
        ({"cpu": {"period": 50_000}}, {"cpu.max": "max 50000"}),
        ({"cpu": {"cpus": "0-1", "mems": ""}}, {"cpuset.cpus": "0-1"}),
        ({"pids": {"limit": 0}}, {}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"pids": {"limit": 7}}, {"pids.max": "7"}),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}, {"pageSize": "../x"}, 3]},
            {"hugetlb.2MB.max": "4"},
        ),
        ({"memory": None, "cpu": [], "pids": {"limit": "9"}, "hugepageLimits": {}}, {}),
        ({"pids": {"limit": True}, "devices": [{"allow": False}], "blockIO": {}}, {}),
    ],
)
def test_each_limit_has_its_file(resources: dict[str, object], files: dict[str, str]) -> None:
    """-1 is "max", never a number; swap is without memory; what is odd is left alone."""
    assert cgroup_settings(resources) == files


@given(json_trees)
def test_no_document_is_too_odd(tree: object) -> None:
    """Whatever stands in the spec, the texts are such as the kernel reads."""
    for name in ("memory", "cpu", "pids", "hugepageLimits"):
        settings = cgroup_settings({name: tree})
        assert all(re.fullmatch(r"[a-z0-9 ,-]+", text) for text in settings.values())
