from __future__ import annotations

import stat

import pytest

from sandboxbuild.errors import ContextError, InputError
from sandboxbuild.fstree.actions import MakeSymlink, WriteFile
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.tree import FileTree
from sandboxbuild.plan.copying import copy_actions, url_file_name
from sandboxbuild.plan.operations import (
    ContextSource,
    CopyOp,
    CopySource,
    GitSource,
    ImageSource,
    InlineSource,
    StageSource,
    UrlSource,
)
from tests.unit.plan.trees import NOW_NS, after, file, folder, link, tree

SMALL = tree("a1", "a2", "b1", "ab", "[x]", "d1/f", "d2/f", "d2/.hidden", ".dot", "a*b", "a^")


def made(paths: str, destination: str = "/t/", context: FileTree = SMALL, **flags: object) -> list[str]:
    op = CopyOp((ContextSource(),), (tuple(paths.split()),), destination, **flags)  # type: ignore[arg-type]
    return sorted(after(copy_actions(op, (context,), tree(), owner=None, now_ns=NOW_NS)))


def from_source(
    source: CopySource, given: FileTree, paths: tuple[str, ...] = (), destination: str = "/t/", **flags: object
) -> dict[str, str]:
    archives = flags.pop("archives", ())
    owner = flags.pop("ids", None)
    op = CopyOp((source,), (paths,), destination, **flags)  # type: ignore[arg-type]
    actions = copy_actions(
        op,
        (given,),
        tree(),
        owner=owner,  # type: ignore[arg-type]
        now_ns=NOW_NS,
        is_archive=lambda origin, entry: entry.path.decode() in archives,  # type: ignore[operator]
    )
    return after(actions)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a[0-1]", "a1"),
        ("a[^0-9]", "a^ ab"),
        ("a?", "a1 a2 a^ ab"),
        ("a*", "a*b a1 a2 a^ ab"),
        ("[[]x]", "[x]"),
        ("d*", ".hidden f"),
        ("d*/f", "f"),
        ("**/f", "f"),
        ("*", ".dot .hidden [x] a*b a1 a2 a^ ab b1 f"),
        ("../../a1", "a1"),
        ("/a1", "a1"),
    ],
)
def test_wildcards_are_gos(pattern: str, names: str) -> None:
    assert made(pattern) == ["/t", *(f"/t/{name}" for name in names.split())]


@pytest.mark.parametrize("pattern", ["*f", "zzz*", "d1/f/*", "a1*/*"])
def test_a_wildcard_that_matches_nothing_makes_nothing(pattern: str) -> None:
    assert made(pattern) == []


def test_a_malformed_pattern_is_an_error() -> None:
    with pytest.raises(InputError, match="malformed"):
        made("a[")


def test_a_missing_source_is_an_error_that_names_it() -> None:
    with pytest.raises(ContextError, match="/sub/missing is not in the build context"):
        made("sub/missing")


def test_a_wildcard_below_a_missing_directory_is_an_error() -> None:
    with pytest.raises(ContextError, match="/nowhere"):
        made("nowhere/*.txt")


def test_a_source_that_is_a_link_is_followed_and_keeps_its_name() -> None:
    context = tree(file("real", 0o600), link("link", "../../real"), link("dir", "/d"), "d/f")
    assert made("link", context=context) == ["/t", "/t/link"]
    assert made("dir", context=context) == ["/t", "/t/f"]
    assert made("dir/f", context=context) == ["/t", "/t/f"]
    assert made("l*", context=context) == ["/t", "/t/link"]


def test_a_link_after_a_wildcard_is_not_searched() -> None:
    assert made("*/f", context=tree(link("dir", "d"), "d/f", "d/g")) == ["/t", "/t/f"]
    assert made("dir*/f", context=tree(link("dir", "d"), "d/f")) == []


@pytest.mark.parametrize("entries", [[link("l", "nowhere")], [link("l", "m"), link("m", "l")]])
def test_a_dangling_or_circular_source_is_an_error(entries: list[Entry]) -> None:
    with pytest.raises(ContextError, match="/l"):
        made("l", context=tree(*entries))


def test_links_inside_a_directory_stay_links() -> None:
    op = CopyOp((ContextSource(),), (("d",),), "/t")
    context = tree("d/real", link("d/link", "real"), link("d/gone", "nowhere"))
    actions = copy_actions(op, (context,), tree(), owner=None, now_ns=NOW_NS)
    assert [(action.path, action.target) for action in actions if isinstance(action, MakeSymlink)] == [
        (b"t/gone", b"nowhere"),
        (b"t/link", b"real"),
    ]


def test_hard_links_stay_hard_links_within_one_source_alone() -> None:
    one = file("d/one", inode=(1, 5), link_count=2)
    context = tree(one, one._replace(path=b"d/two"))
    assert from_source(ContextSource(), context, ("d",))["/t/two"] == "hard t/one"
    assert from_source(ContextSource(), context, ("d/one", "d/two"))["/t/two"] == "file 0644 0:0 d/two"


def test_an_inode_with_one_name_is_no_hard_link() -> None:
    context = tree(file("d/one", inode=(0, 0), link_count=2), file("d/two", inode=(0, 0), link_count=2))
    assert from_source(ContextSource(), context, ("d",))["/t/two"].startswith("file")


def test_special_files_are_copied_and_sockets_become_empty_files() -> None:
    context = tree(
        Entry(b"d/pipe", stat.S_IFIFO | 0o600),
        Entry(b"d/dev", stat.S_IFCHR | 0o666, rdev=(1, 3)),
        Entry(b"d/sock", stat.S_IFSOCK | 0o600),
    )
    result = from_source(ContextSource(), context, ("d",))
    assert result["/t/pipe"] == "node 10600 (0, 0)"
    assert result["/t/dev"] == "node 20666 (1, 3)"
    assert result["/t/sock"] == "bytes 0600 0:0 "


def test_owners_of_a_context_become_root_those_of_stages_and_images_stay() -> None:
    given = tree(folder("d", 0o755, 1, 2), file("d/f", 0o644, 3, 4), folder("d/e", 0o700, 5, 6))
    for source in (StageSource(0), ImageSource("x")):
        assert from_source(source, given, ("d",)) == {
            "/t": "times",
            "/t/f": "file 0644 3:4 d/f",
            "/t/e": "dir 0700 5:6",
        }
    assert from_source(ContextSource("named"), given, ("d",))["/t/f"] == "file 0644 0:0 d/f"
    assert from_source(StageSource(0), given, ("d",), owner="7:8", ids=(7, 8))["/t/f"] == "file 0644 7:8 d/f"


def test_times_of_files_are_kept_and_new_directories_get_the_clocks() -> None:
    op = CopyOp((ContextSource(),), (("a1",),), "/t/")
    first, second = copy_actions(op, (SMALL,), tree(), owner=None, now_ns=NOW_NS)
    assert first.mtime_ns == NOW_NS  # type: ignore[union-attr]
    assert isinstance(second, WriteFile)
    assert second.mtime_ns == 7


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (("*.txt", "sub/deep"), ["/t", "/t/empty", "/t/sub", "/t/sub/c.txt"]),
        (("**/*.txt",), ["/t", "/t/empty", "/t/sub", "/t/sub/deep"]),
        (("sub", "!sub/deep/d.txt"), ["/t", "/t/a.txt", "/t/empty", "/t/sub", "/t/sub/deep", "/t/sub/deep/d.txt"]),
        (("*",), ["/t"]),
    ],
)
def test_exclude_takes_patterns_of_ignore_files_relative_to_the_source(exclude: tuple[str, ...], expected: list[str]) -> None:
    context = tree("a.txt", "sub/c.txt", "sub/deep/d.txt", folder("empty"))
    assert made(".", context=context, exclude=exclude) == expected


def test_exclude_does_not_apply_to_a_file_that_is_named() -> None:
    assert made("a1", exclude=("a1",)) == ["/t", "/t/a1"]


DEEP = tree("x/a.txt", "x/y/a.txt", "x/y/b.txt", "x/z/a.txt", "x/z/b.txt", "y/a.txt", "y/b.txt")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("./x/a.txt ./y/a.txt", "x x/a.txt y y/a.txt"),
        ("x/./y", "y y/a.txt y/b.txt"),
        ("./x/./*", "a.txt y y/a.txt y/b.txt z z/a.txt z/b.txt"),
        ("./x/*/a.txt ./*/b.txt", "x x/y x/y/a.txt x/z x/z/a.txt y y/b.txt"),
        ("x/./y/.", "y y/a.txt y/b.txt"),
        ("**/b.txt", "x x/y x/y/b.txt x/z x/z/b.txt y y/b.txt"),
        ("?/./*/a.txt", "y y/a.txt z z/a.txt"),
        ("x/q*", ""),
    ],
)
def test_parents_keep_the_path_of_the_source(paths: str, expected: str) -> None:
    assert made(paths, context=DEEP, parents=True) == ["/t", *(f"/t/{name}" for name in expected.split())]


def test_parents_need_a_source_that_is_there_unless_it_has_wildcards() -> None:
    with pytest.raises(ContextError, match="/x/q"):
        made("x/q", context=DEEP, parents=True)


PAIRS = tree("d/a.txt", "d/b.bin", "d/e/c.txt", "f.txt")


@pytest.mark.parametrize(
    ("source", "exclude", "expected"),
    [
        ("d/", ("**/*.txt", "d/e"), "d d/b.bin"),
        ("d/", ("*.txt", "e"), "d d/b.bin"),
        ("d/", (" ", "d/*", "!d/b.bin"), "d d/b.bin"),
        ("./d/.", ("d/*", "!d/b.bin"), "d d/b.bin"),
        ("d/./b.bin", ("d/b.bin",), "b.bin"),
        ("*", ("d",), "f.txt"),
    ],
)
def test_exclude_is_relative_to_the_source_and_to_where_the_walk_of_parents_starts(
    source: str, exclude: tuple[str, ...], expected: str
) -> None:
    taken = made(source, context=PAIRS, parents=True, exclude=exclude)
    assert taken == ["/t", *(f"/t/{name}" for name in expected.split())]


@pytest.mark.parametrize(
    ("source", "exclude"), [("d/a.txt", ("d/a.txt",)), ("d/./e", ("e",)), ("d", ("d",)), (".", ()), ("d/./.", ())]
)
def test_a_path_that_parents_names_has_to_be_taken(source: str, exclude: tuple[str, ...]) -> None:
    with pytest.raises(ContextError, match="not taken"):
        made(source, context=PAIRS, parents=True, exclude=exclude)


LINKED = tree("d/a.txt", link("l", "d"), link("gone", "nowhere"))


def test_parents_take_links_as_they_are_and_go_through_none() -> None:
    assert made("gone l", context=LINKED, parents=True) == ["/t", "/t/gone", "/t/l"]
    for source in ("l/a.txt", "l/./a.txt"):
        with pytest.raises(ContextError, match=r"/l/a\.txt is not in"):
            made(source, context=LINKED, parents=True)
    assert made("l/./*", context=LINKED, parents=True) == ["/t", "/t/a.txt"]


def test_a_file_has_nothing_below_that_parents_could_take() -> None:
    assert made("*/./g", context=tree("d/g", "f.txt"), parents=True) == ["/t", "/t/g"]


def test_parents_list_no_directory_that_cannot_hold_a_match() -> None:
    class Listed(FileTree):
        listed: list[bytes] = []

        def children(self, path: bytes) -> tuple[bytes, ...]:
            self.listed.append(path)
            return super().children(path)

    made("x/y/b.txt", context=Listed([file("x/y/b.txt"), file("other/f"), file("x/z/f")]), parents=True)
    assert Listed.listed == [b"", b"x", b"x/y"]


def test_inline_files_are_written_with_their_content() -> None:
    source = InlineSource((("one", b"1\n"), ("two", b"2\n")))
    assert from_source(source, tree(), destination="/d/") == {
        "/d": "dir 0755 0:0",
        "/d/one": "bytes 0644 0:0 1\n",
        "/d/two": "bytes 0644 0:0 2\n",
    }
    assert from_source(source, tree(), destination="/f", mode="755", ids=(1, 2))["/f"] == "bytes 0755 1:2 2\n"


def test_a_fetched_file_is_private_and_root_s() -> None:
    given = tree(file("hello.txt", 0o644, 9, 9))
    url = UrlSource("http://files.example.com/hello.txt?x=y#z")
    assert from_source(url, given, is_add=True)["/t/hello.txt"] == "file 0600 0:0 hello.txt"
    assert from_source(url, given, is_add=True, mode="0755")["/t/hello.txt"] == "file 0755 0:0 hello.txt"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.txt?c=d/e", "b.txt"),
        ("https://h/dir/", "dir"),
        ("http://h", "__unnamed__"),
        ("http://h/", "__unnamed__"),
        ("http://h/a/..", "__unnamed__"),
        ("http://h/a%20b", "a b"),
        ("http://h/x%2Fy", "y"),
        ("http://h/x%2F..%2F..", "__unnamed__"),
        ("http://h/a%00b", "__unnamed__"),
    ],
)
def test_the_name_of_a_fetched_file_is_the_last_of_the_urls_path(url: str, name: str) -> None:
    assert url_file_name(url) == name


def test_a_fetched_archive_is_unpacked_on_request_alone() -> None:
    given = tree("a.tar")
    url = UrlSource("http://h.example.com/a.tar")
    assert "/t/a.tar" in from_source(url, given, is_add=True, archives=("a.tar",))
    assert from_source(url, given, is_add=True, unpack=True, archives=("a.tar",))["/t"] == "unpack a.tar None:None"


def test_add_unpacks_an_archive_into_a_directory_of_the_destinations_name() -> None:
    given = tree("a.tar")
    result = from_source(ContextSource(), given, ("a.tar",), "/x/t", is_add=True, archives=("a.tar",), ids=(5, 6))
    assert result == {"/x": "dir 0755 5:6", "/x/t": "unpack a.tar 5:6"}


def test_archives_are_copied_by_copy_and_by_unpack_false_and_inside_directories() -> None:
    given = tree("d/a.tar")
    for flags in ({}, {"is_add": True, "unpack": False}):
        assert "/t/a.tar" in from_source(ContextSource(), given, ("d/a.tar",), archives=("d/a.tar",), **flags)
    assert "/t/a.tar" in from_source(ContextSource(), given, ("d",), is_add=True, archives=("d/a.tar",))


def test_a_git_checkout_goes_to_the_destination_itself() -> None:
    given = tree("README", "src/f")
    git = GitSource("https://example.com/r.git")
    assert from_source(git, given, destination="/x")["/x/src/f"] == "file 0644 0:0 src/f"
    assert "/x/README" in from_source(git, given, destination="/x/")


def test_sources_of_several_kinds_are_taken_in_order() -> None:
    op = CopyOp((ContextSource(), InlineSource((("one", b"1"),))), (("a1",), ()), "/t/")
    assert list(after(copy_actions(op, (SMALL, tree()), tree(), owner=None, now_ns=NOW_NS))) == ["/t", "/t/a1", "/t/one"]
