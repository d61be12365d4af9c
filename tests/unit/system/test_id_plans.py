from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import IsolationError
from sandboxbuild.system import idmap
from sandboxbuild.system.namespaces import map_text

WHOLE = [(0, 0, 4294967295)]


def test_root_stands_for_nobody_on_the_host() -> None:
    plan = idmap.plan_for_root(uid_map=WHOLE, gid_map=WHOLE)
    assert plan.mode == "range"
    assert plan.uids[0][1] == idmap.ROOT_BASE
    assert plan.identity == plan.uids[0][2] - 1
    assert plan.identity >= idmap.IMAGE_IDS


def test_root_of_a_container_takes_the_end_of_what_it_has() -> None:
    plan = idmap.plan_for_root(uid_map=[(0, 100000, 200000)], gid_map=[(0, 100000, 200000)])
    assert plan.uids == ((0, 200000 - idmap.IMAGE_IDS - 1, idmap.IMAGE_IDS + 1),)


@pytest.mark.parametrize("length", [1, 65536, 65537])
def test_root_with_too_few_ids_is_told_so(length: int) -> None:
    with pytest.raises(IsolationError):
        idmap.plan_for_root(uid_map=[(0, 1000, length)], gid_map=WHOLE)


def test_a_user_is_the_executor_and_its_subordinates_are_the_image() -> None:
    plan = idmap.plan_for_user(1000, 100, [(200000, 65536)], [(300000, 65536)])
    assert plan.uids == ((0, 200000, 65536), (65536, 1000, 1))
    assert plan.gids == ((0, 300000, 65536), (65536, 100, 1))
    assert not plan.direct


@pytest.mark.parametrize("spans", [[], [(200000, 65535)], [(1, 100), (500, 200)]])
def test_too_few_subordinates_leave_the_single_id(spans: list[tuple[int, int]]) -> None:
    plan = idmap.plan_for_user(1000, 100, spans, [(300000, 65536)])
    assert (plan.mode, plan.uids, plan.identity) == ("single", ((0, 1000, 1),), 0)
    assert "/etc/subuid" in plan.why_single
    assert "/etc/subgid" not in plan.why_single


@given(st.lists(st.tuples(st.integers(1, 2**31), st.integers(1, 70000)), max_size=6))
@settings(max_examples=60)
def test_a_range_covers_each_inside_id_once(spans: list[tuple[int, int]]) -> None:
    plan = idmap.plan_for_user(7, 7, spans, [(300000, 65536)])
    if plan.mode == "range":
        assert [sum(entry[2] for entry in plan.uids[:n]) for n in range(len(plan.uids))] == [entry[0] for entry in plan.uids]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u:100000:65536\n", [(100000, 65536)]),
        ("1000:5:6\nv:1:2\nu:7:8\n", [(5, 6), (7, 8)]),
        ("# u:1:2\nu:0:65536\nu:-1:5\nu:1\nu:1:2:3\nu:x:y\nu:4294967295:1\nu:9:\n\n", []),
        ("u:10:20 # with a remark\n", [(10, 20)]),
    ],
)
def test_lines_that_are_not_ranges_of_this_user_are_skipped(text: str, expected: list[tuple[int, int]]) -> None:
    assert idmap.parse_subordinate(text, ["u", "1000"]) == expected


def test_a_map_is_read_as_it_is_written() -> None:
    ranges = [(0, 100000, 65536), (65536, 1000, 1)]
    assert idmap.parse_map(map_text(ranges)) == ranges
