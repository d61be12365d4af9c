"""Cache mounts of two builds that run at the same time on one store: shared, locked, private."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.builder import Builder, run_tool
from tests.support.built import Node, read_image
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

AWAIT = "n=0; until test -e {}; do n=$((n + 1)); test $n -lt 300 || exit 9; sleep 0.1; done"


@pytest.fixture
def base(registry: str) -> str:
    name = f"{registry}/base:1"
    run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{name}")
    return name


def at_once(builder: Builder, base: str, *scripts: str, options: str = "") -> list[dict[str, Node]]:
    """A build for each script, all started together; a script is a RUN with the cache `c` at /c. Gives the images' files."""

    def build(number: int) -> dict[str, Node]:
        text = f"FROM {base}\nARG who=me\nRUN --mount=type=cache,id=c,target=/c{options} {scripts[number]}\n"
        context = builder.context({"Dockerfile": text}, f"context-{number}")
        layout = builder.folder / f"layout-{number}"
        builder.run("--build-arg", f"who={number}", "-o", f"type=oci,tar=false,dest={layout}", context)
        return read_image(layout).tree()

    with ThreadPoolExecutor(len(scripts)) as pool:
        return list(pool.map(build, range(len(scripts))))


def test_builds_with_a_shared_cache_see_each_other(builder: Builder, base: str) -> None:
    first = f"echo one > /c/one; {AWAIT.format('/c/two')}; cat /c/two > /got"
    second = f"echo two > /c/two; {AWAIT.format('/c/one')}; cat /c/one > /got"
    trees = at_once(builder, base, first, second)
    assert [tree["got"].text for tree in trees] == ["two\n", "one\n"]
    assert not any(name.startswith("c/") for tree in trees for name in tree)


def test_builds_with_a_locked_cache_take_turns(builder: Builder, base: str) -> None:
    script = "mkdir /c/busy || exit 8; sleep 1; rmdir /c/busy; echo $who >> /c/log; cp /c/log /log"
    trees = at_once(builder, base, script, script, script, options=",sharing=locked")
    assert sorted(len(tree["log"].text.split()) for tree in trees) == [1, 2, 3]


def test_builds_with_a_private_cache_have_one_each(builder: Builder, base: str) -> None:
    script = "test ! -e /c/mine || exit 8; echo $who > /c/mine; sleep 2; cat /c/mine > /got"
    trees = at_once(builder, base, script, script, options=",sharing=private")
    assert [tree["got"].text for tree in trees] == ["0\n", "1\n"]


def test_a_cache_outlives_its_build_and_no_other_id_reaches_it(builder: Builder, base: str) -> None:
    at_once(builder, base, "echo kept > /c/f")
    text = f"""FROM {base}
RUN --mount=type=cache,id=c,target=/c --mount=type=cache,id=../c,target=/d cp /c/f /same; ls /d > /other
RUN --mount=type=cache,id=c,target=/c,readonly touch /c/g 2> /refused; true
"""
    layout = builder.folder / "layout"
    builder.run("-o", f"type=oci,tar=false,dest={layout}", builder.context({"Dockerfile": text}))
    tree = read_image(layout).tree()
    assert (tree["same"].text, tree["other"].text) == ("kept\n", "")
    assert "Read-only" in tree["refused"].text
