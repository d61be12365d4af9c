"""What a hostile repository can put on disk: nothing outside its folder, nothing that git would run, nothing without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.contexts.git import Cloned, Limits, clone
from sandboxbuild.contexts.gitcheckout import CheckoutLimits
from sandboxbuild.contexts.gitobjects import BLOB, TAG, TREE, object_id, parse_commit, parse_tree
from sandboxbuild.contexts.gitwire import Ref, choose_ref, is_plain_reference
from sandboxbuild.errors import ContextError, DockerfileError, LimitExceeded
from sandboxbuild.plan.operations import GitSource
from tests.unit.contexts.gitmade import URL, GitServer, Repository, tree

SMALL = Limits(checkout=CheckoutLimits(entries=1000, total_bytes=1 << 20, depth=20, path_bytes=1000))


def cloned(tmp_path: Path, server: GitServer, reference: str = "", **fields: object) -> Cloned:
    source = GitSource(URL, reference, **fields)  # type: ignore[arg-type]  # a test's own
    return clone(source, server, str(tmp_path / "out"), owner=None, limits=SMALL)


def test_files_links_and_modes_are_as_in_the_tree(tmp_path: Path) -> None:
    repository = Repository({b"file": b"content"})
    blob = repository.add(BLOB, b"/etc/passwd")
    inner = repository.add(TREE, tree([("100755", b"run", object_id(BLOB, b"content")), ("120000", b"link", blob)]))
    made = Repository({b"file": b"content"}, [("40000", b"dir", inner), ("160000", b"module", bytes(20))])
    made.objects += repository.objects
    found = cloned(tmp_path, GitServer(made), submodules=False)
    out = tmp_path / "out"
    assert found == Cloned(str(out), made.head, ())
    assert (out / "file").read_bytes() == b"content"
    assert (out / "dir/run").stat().st_mode & 0o777 == 0o755
    assert (out / "dir/link").readlink() == Path("/etc/passwd")
    assert list((out / "module").iterdir()) == []
    assert {path.lstat().st_mtime for path in (out, out / "dir", out / "file", out / "dir/link")} == {1700000000}
    assert sorted(os.listdir(tmp_path)) == ["out"]


@pytest.mark.parametrize("name", [b"..", b".", b"", b".git", b".GIT", b".Git", b"a/b", b"/abs", b"../x", b"x" * 256])
def test_names_that_no_checkout_can_hold_are_refused(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(ContextError):
        cloned(tmp_path, GitServer(Repository({name: b"x"})))


def test_a_link_and_a_directory_of_one_name_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first = Repository({})
    blob = first.add(BLOB, bytes(outside))
    below = first.add(TREE, tree([("100644", b"written", blob)]))
    made = Repository({}, [("120000", b"a", blob), ("40000", b"a", below)])
    made.objects += first.objects
    with pytest.raises(ContextError, match="two entries"):
        cloned(tmp_path, GitServer(made))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("mode", ["100666x", "777", "020000", "060000", "010000", "140000", "", "40000000000", "1e5"])
def test_modes_that_git_does_not_know_are_refused(mode: str) -> None:
    with pytest.raises(ContextError):
        parse_tree(tree([(mode, b"x", bytes(20))]))


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 5000])
def test_links_that_cannot_be_made_are_refused(tmp_path: Path, target: bytes) -> None:
    first = Repository({})
    made = Repository({}, [("120000", b"a", first.add(BLOB, target))])
    made.objects += first.objects
    with pytest.raises(ContextError, match="symbolic link"):
        cloned(tmp_path, GitServer(made))


def test_a_tree_that_stands_in_itself_many_times_is_bounded(tmp_path: Path) -> None:
    """A git bomb: ten levels of ten names for one tree are ten thousand million files."""
    first = Repository({})
    below = first.add(TREE, b"")
    for _ in range(10):
        below = first.add(TREE, tree([("40000", b"%d" % number, below) for number in range(10)]))
    made = Repository({}, [("40000", b"top", below)])
    made.objects += first.objects
    with pytest.raises(LimitExceeded, match="files"):
        cloned(tmp_path, GitServer(made))


def test_depth_is_bounded(tmp_path: Path) -> None:
    first = Repository({})
    below = first.add(TREE, b"")
    for _ in range(30):
        below = first.add(TREE, tree([("40000", b"d", below)]))
    made = Repository({}, [("40000", b"top", below)])
    made.objects += first.objects
    with pytest.raises(LimitExceeded, match="deep"):
        cloned(tmp_path, GitServer(made))


def test_bytes_are_bounded_by_what_is_written_and_not_by_what_was_sent(tmp_path: Path) -> None:
    content = bytes(1 << 18)
    with pytest.raises(LimitExceeded, match="bytes"):
        cloned(tmp_path, GitServer(Repository({b"%d" % number: content for number in range(5)})))


def test_an_object_that_was_left_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="left out the blob"):
        cloned(tmp_path, GitServer(Repository({}, [("100644", b"x", bytes(20))])))


@pytest.mark.parametrize("place", ["..", "a/../..", "link", "file", "absent", "link/../.."])
def test_a_sub_directory_is_inside_or_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").mkdir()
    first = Repository({b"file": b"x"})
    made = Repository({b"file": b"x"}, [("120000", b"link", first.add(BLOB, b"../secret"))])
    made.objects += first.objects
    with pytest.raises(ContextError):
        cloned(tmp_path, GitServer(made), subdirectory=place)


def test_a_commits_id_is_asked_for_without_a_look_at_the_refs(tmp_path: Path) -> None:
    server = GitServer(Repository({b"f": b"x"}))
    cloned(tmp_path, server, server.repository.head)
    assert [url.removeprefix(URL) for url, _ in server.asked] == ["/info/refs?service=git-upload-pack", "/git-upload-pack"]
    assert f"want {server.repository.head}".encode() in server.asked[1][1]


def test_a_server_that_sends_another_commit_gains_nothing(tmp_path: Path) -> None:
    server = GitServer(Repository({b"f": b"x"}))
    with pytest.raises(ContextError, match="left out the commit"):
        cloned(tmp_path, server, "a" * 40)


def test_the_checksum_is_the_commits(tmp_path: Path) -> None:
    server = GitServer(Repository({b"f": b"x"}))
    with pytest.raises(DockerfileError, match=server.repository.head):
        cloned(tmp_path, server, "main", checksum="b" * 40)


def test_an_annotated_tag_leads_to_its_commit(tmp_path: Path) -> None:
    repository = Repository({b"f": b"x"})
    tag = repository.add(TAG, b"object %b\ntype commit\ntag v1\n\nx" % repository.head.encode())
    server = GitServer(repository)
    server.refs = [f"{tag.hex()} refs/tags/v1 peeled:{repository.head}\n"]
    assert cloned(tmp_path, server, "v1").commit == repository.head


def test_tags_of_tags_end_somewhere(tmp_path: Path) -> None:
    repository = Repository({b"f": b"x"})
    named = repository.head
    for _ in range(20):
        named = repository.add(TAG, b"object %b\ntype tag\n\nx" % named.encode()).hex()
    server = GitServer(repository)
    server.refs = [f"{named} refs/tags/v1\n"]
    with pytest.raises(ContextError):
        cloned(tmp_path, server, "v1")


def test_a_redirect_moves_the_repository(tmp_path: Path) -> None:
    server = GitServer(Repository({b"f": b"x"}))
    server.headers = {"sandboxbuild-location": "https://moved.example.com/app.git/info/refs?service=git-upload-pack"}
    cloned(tmp_path, server)
    assert [url for url, _ in server.asked[1:]] == ["https://moved.example.com/app.git/git-upload-pack"] * 2


@pytest.mark.parametrize("status", [401, 403, 404, 500, 302])
def test_a_status_other_than_200_is_an_error(tmp_path: Path, status: int) -> None:
    server = GitServer(Repository({}))
    server.status = status
    with pytest.raises(ContextError, match=str(status)):
        cloned(tmp_path, server)


@pytest.mark.parametrize("reference", ["a b", "-x", "a..b", "a~1", "a\n", "@{u}", "x:y", "\x7f", "a" * 2000])
def test_a_reference_that_git_would_not_take_is_never_sent(tmp_path: Path, reference: str) -> None:
    server = GitServer(Repository({}))
    assert not is_plain_reference(reference)
    with pytest.raises(ContextError):
        cloned(tmp_path, server, reference)
    assert server.asked == []


@pytest.mark.parametrize("url", ["ssh://git.example.com/x", "git://git.example.com/x", "file:///etc", "git@git.example.com:x"])
def test_other_protocols_are_closed(tmp_path: Path, url: str) -> None:
    server = GitServer(Repository({}))
    with pytest.raises(ContextError, match="protocol"):
        clone(GitSource(url), server, str(tmp_path / "out"), owner=None)
    assert server.asked == []


def test_branches_come_before_tags_and_a_beginning_of_an_id_means_one_commit() -> None:
    refs = [Ref(b"refs/tags/x", b"a" * 40), Ref(b"refs/heads/x", b"b" * 40), Ref(b"refs/heads/y", b"c" * 40)]
    found = choose_ref(refs, "x")
    assert found is not None
    assert found.name == b"refs/heads/x"
    assert choose_ref(refs, "ccccccc") == refs[2]
    assert choose_ref([*refs, Ref(b"z", b"c" * 8 + b"d" * 32)], "ccccccc") is None
    assert choose_ref(refs, "refs/heads/z") is None


def test_a_commit_without_a_sane_time_is_from_the_epoch() -> None:
    assert parse_commit(b"tree " + b"a" * 40 + b"\n\nx").time_s == 0
    assert parse_commit(b"tree " + b"a" * 40 + b"\ncommitter x <x> -5 +0000\n\nx").time_s == 0
