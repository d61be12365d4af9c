from __future__ import annotations

import pytest

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.actions import FileAction
from sandboxbuild.fstree.tree import FileTree
from sandboxbuild.plan.copying import copy_actions
from sandboxbuild.plan.operations import ContextSource, CopyOp
from tests.unit.plan.trees import NOW_NS, after, file, folder, link, tree

CONTEXT = tree("a.txt", "b.txt", "sub/c.txt", file("sub/deep/d.txt", 0o600))


def copy(
    paths: str, destination: str, target: FileTree | None = None, context: FileTree = CONTEXT, **flags: object
) -> tuple[FileAction, ...]:
    owner = flags.pop("ids", None)
    op = CopyOp((ContextSource(),), (tuple(paths.split()),), destination, **flags)  # type: ignore[arg-type]
    return copy_actions(op, (context,), target or tree(), owner=owner, now_ns=NOW_NS)  # type: ignore[arg-type]


def made(paths: str, destination: str, target: FileTree | None = None, **flags: object) -> dict[str, str]:
    return after(copy(paths, destination, target, **flags))  # type: ignore[arg-type]


def test_a_file_to_a_path_with_a_slash_keeps_its_name() -> None:
    assert made("a.txt", "/dir/") == {"/dir": "dir 0755 0:0", "/dir/a.txt": "file 0644 0:0 a.txt"}


@pytest.mark.parametrize("destination", ["/x/.", "/x/"])
def test_a_path_that_ends_in_a_dot_is_a_directory(destination: str) -> None:
    assert "/x/a.txt" in made("a.txt", destination)


def test_a_file_to_a_new_path_is_renamed() -> None:
    assert made("a.txt", "/p/new") == {"/p": "dir 0755 0:0", "/p/new": "file 0644 0:0 a.txt"}


def test_a_file_to_a_directory_that_exists_goes_inside() -> None:
    assert made("a.txt", "/tmp", tree(folder("tmp", 0o1777))) == {"/tmp/a.txt": "file 0644 0:0 a.txt"}


def test_a_file_to_the_root_goes_inside() -> None:
    assert made("a.txt", "/") == {"/a.txt": "file 0644 0:0 a.txt"}


def test_a_directory_gives_its_contents() -> None:
    assert made("sub", "/dir") == {
        "/dir": "times",
        "/dir/c.txt": "file 0644 0:0 sub/c.txt",
        "/dir/deep": "dir 0755 0:0",
        "/dir/deep/d.txt": "file 0600 0:0 sub/deep/d.txt",
    }


def test_a_new_target_directory_leaves_the_sources_mode_behind() -> None:
    actions = copy("d", "/new", context=tree(folder("d", 0o700), "d/f"))
    assert next(action for action in actions if action.path == b"new").mode == 0o755  # type: ignore[union-attr]


def test_an_existing_target_directory_keeps_mode_and_owner_and_takes_the_time() -> None:
    context = tree(folder("d", 0o700), folder("d/inner", 0o700), "d/inner/f")
    existing = tree(folder("k", 0o711, 5, 5), folder("k/inner", 0o777, 6, 6))
    assert made("d", "/k", existing, context=context) == {
        "/k": "times",
        "/k/inner": "set 0700 0:0",
        "/k/inner/f": "file 0644 0:0 d/inner/f",
    }


def test_a_directory_onto_a_file_is_an_error() -> None:
    with pytest.raises(InputError, match="/f"):
        copy("sub", "/f", tree("f"))


def test_a_file_below_a_file_is_an_error() -> None:
    with pytest.raises(InputError, match="not a directory"):
        copy("a.txt", "/f/x", tree("f"))


def test_a_nested_file_onto_a_directory_is_an_error() -> None:
    with pytest.raises(InputError, match="/d/x"):
        copy("two", "/d", tree("d/x/inner"), context=tree("two/x"))


def test_a_nested_link_onto_a_directory_is_an_error() -> None:
    with pytest.raises(InputError, match="/t/l"):
        copy("two", "/t", tree("t/l/f"), context=tree(link("two/l", "b")))


def test_a_directory_onto_a_nested_link_is_an_error() -> None:
    with pytest.raises(InputError, match="/t/l"):
        copy("d", "/t", tree(link("t/l", "/"), folder("t")), context=tree("d/l/f"))


def test_a_destination_that_is_a_link_is_followed_inside_the_root() -> None:
    target = tree(link("link", "../../../real"), folder("real"))
    assert made("a.txt", "/link", target) == {"/real/a.txt": "file 0644 0:0 a.txt"}
    assert made("a.txt", "/link/", target) == {"/real/a.txt": "file 0644 0:0 a.txt"}


def test_what_a_dangling_destination_points_to_is_made() -> None:
    target = tree(link("symlink", "symlink-target"))
    assert made("a.txt", "/symlink/sub/", target) == {
        "/symlink-target": "dir 0755 0:0",
        "/symlink-target/sub": "dir 0755 0:0",
        "/symlink-target/sub/a.txt": "file 0644 0:0 a.txt",
    }


def test_dots_of_a_destination_are_cleaned_before_links_are_followed() -> None:
    assert "/a.txt" in made("a.txt", "/symlink/..", tree(link("symlink", "/there/sub")))


def test_a_link_named_as_the_destination_is_followed_one_inside_it_is_replaced() -> None:
    target = tree("t", link("d/f", "/t"))
    context = tree("f")
    assert made("f", "/d/f", target, context=context) == {"/t": "file 0644 0:0 f"}
    assert made("f", "/d/", target, context=context) == {"/d/f": "file 0644 0:0 f"}


def test_two_files_go_to_one_directory() -> None:
    assert set(made("a.txt b.txt", "/dir/")) == {"/dir", "/dir/a.txt", "/dir/b.txt"}


def test_what_an_earlier_source_made_counts_for_a_later_one() -> None:
    context = tree("one/x/f", "two/x")
    with pytest.raises(InputError, match="/d/x"):
        copy("one two", "/d/", context=context)


def test_the_last_of_two_sources_of_one_name_wins() -> None:
    actions = copy("one/f two/f", "/d/", context=tree("one/f", "two/f"))
    assert after(actions)["/d/f"] == "file 0644 0:0 two/f"


def test_created_parents_get_the_owner() -> None:
    assert made("a.txt", "/x/y/f", owner="5:6", ids=(5, 6)) == {
        "/x": "dir 0755 5:6",
        "/x/y": "dir 0755 5:6",
        "/x/y/f": "file 0644 5:6 a.txt",
    }


def test_an_owner_leaves_existing_directories_alone() -> None:
    assert made("sub", "/opt", tree(folder("opt")), owner="5:6", ids=(5, 6))["/opt"] == "times"


def test_created_parents_get_an_octal_mode_without_its_special_bits() -> None:
    assert made("a.txt", "/new/parents/", mode="4711") == {
        "/new": "dir 0711 0:0",
        "/new/parents": "dir 0711 0:0",
        "/new/parents/a.txt": "file 4711 0:0 a.txt",
    }


def test_created_parents_do_not_get_a_symbolic_mode() -> None:
    assert made("a.txt", "/new/", mode="go=")["/new"] == "dir 0755 0:0"


def test_an_octal_mode_goes_to_all_below_but_links() -> None:
    context = tree(folder("d"), folder("d/e", 0o700), "d/e/f", link("d/l", "f"))
    assert made("d", "/t", context=context, mode="2750") == {
        "/t": "times",
        "/t/e": "dir 2750 0:0",
        "/t/e/f": "file 2750 0:0 d/e/f",
        "/t/l": "link 0:0 f",
    }


def test_a_symbolic_mode_is_applied_to_each_files_own() -> None:
    context = tree(folder("d"), folder("d/e", 0o700), file("d/run", 0o700), file("d/text", 0o600))
    assert made("d", "/t", context=context, mode="go=rX") == {
        "/t": "times",
        "/t/e": "dir 0755 0:0",
        "/t/run": "file 0755 0:0 d/run",
        "/t/text": "file 0644 0:0 d/text",
    }


def test_a_directory_made_in_a_setgid_one_inherits_group_and_bit() -> None:
    assert made("a.txt", "/data/new/", tree(folder("data", 0o2775, 0, 1000))) == {
        "/data/new": "dir 2755 0:1000",
        "/data/new/a.txt": "file 0644 0:0 a.txt",
    }


def test_link_replaces_a_symlinked_parent() -> None:
    target = tree(link("current", "data"), folder("data"))
    actions = copy("a.txt", "/current/", target, link=True)
    assert [type(action).__name__ for action in actions] == ["Remove", "MakeDirectory", "WriteFile"]
    assert after(actions)["/current/a.txt"] == "file 0644 0:0 a.txt"


def test_link_gives_existing_directories_the_mode_of_its_layer() -> None:
    assert made("a.txt", "/tmp/", tree(folder("tmp", 0o1777)), link=True) == {
        "/tmp": "set 0755 0:0",
        "/tmp/a.txt": "file 0644 0:0 a.txt",
    }


def test_link_renames_onto_a_directory_that_it_does_not_see() -> None:
    actions = copy("a.txt", "/tmp", tree("tmp/old"), link=True)
    assert [type(action).__name__ for action in actions] == ["Remove", "WriteFile"]


def test_link_with_a_mode_is_no_link() -> None:
    assert "/data/a.txt" in made("a.txt", "/current/", tree(link("current", "data"), folder("data")), link=True, mode="644")


def test_a_nul_character_is_refused() -> None:
    for paths, destination in (("a\0b", "/x"), ("a.txt", "/x\0y")):
        with pytest.raises(InputError, match="NUL"):
            copy(paths, destination)


def test_a_tree_deeper_than_pythons_stack_is_copied() -> None:
    path = "/".join(["d"] * 2000)
    actions = copy("d", "/t", context=tree(path))
    assert len(actions) == 2001
