"""The operations that a step can have, a closed set: RunOp, CopyOp, WorkdirOp. All is expanded; nothing is looked up later."""

from __future__ import annotations

from typing import Final, NamedTuple, Union

SCRATCH: Final = "scratch"  # in place of an image: the empty filesystem


class StageSource(NamedTuple):
    """The finished filesystem of another stage of this file, by its index in the Dockerfile."""

    stage: int


class ImageSource(NamedTuple):
    """The filesystem of an image that is no stage: `COPY --from=alpine`. `reference` as written, expanded.

    SCRATCH is the empty filesystem; "oci-layout://..." a named context that is an image in a layout.
    """

    reference: str
    platform: str = ""


class ContextSource(NamedTuple):
    """The build context (""), or a named one (`--build-context NAME=`). Ignore rules apply to it."""

    name: str = ""


class InlineSource(NamedTuple):
    """Heredoc files of COPY and ADD: (name, content, executable is never set; mode 0644)."""

    files: tuple[tuple[str, bytes], ...]


class UrlSource(NamedTuple):
    """ADD of an http(s) URL. `checksum` is a digest string or empty."""

    url: str
    checksum: str = ""


class GitSource(NamedTuple):
    """ADD of a git repository, or a git context. `submodules` says to fetch them. `checksum` is a commit or empty."""

    url: str
    reference: str = ""
    subdirectory: str = ""
    keep_git_dir: bool = False
    checksum: str = ""
    submodules: bool = True


FileSource = Union[StageSource, ImageSource, ContextSource]
CopySource = Union[StageSource, ImageSource, ContextSource, InlineSource, UrlSource, GitSource]


class BindMount(NamedTuple):
    target: str
    source: FileSource
    source_path: str = "/"
    writable: bool = False  # writes are discarded with the step


class CacheMount(NamedTuple):
    """`sharing` is shared, private or locked. Ids None: 0. `source` seeds an empty cache."""

    target: str
    cache_id: str
    sharing: str = "shared"
    readonly: bool = False
    source: FileSource | None = None
    source_path: str = "/"
    uid: int = 0
    gid: int = 0
    mode: int = 0o755


class TmpfsMount(NamedTuple):
    target: str
    size_bytes: int = 0  # 0: the step's default


class SecretMount(NamedTuple):
    """A file at `target`, or the variable `env`, or both. `required` makes its absence an error."""

    secret_id: str
    target: str = ""
    env: str = ""
    required: bool = False
    uid: int = 0
    gid: int = 0
    mode: int = 0o400


class SshMount(NamedTuple):
    ssh_id: str = "default"
    target: str = ""
    required: bool = False
    uid: int = 0
    gid: int = 0
    mode: int = 0o600


Mount = Union[BindMount, CacheMount, TmpfsMount, SecretMount, SshMount]


class RunOp(NamedTuple):
    """One RUN.

    `argv` is what is executed (SHELL and its option in front for the shell form). `env` is the whole environment in order:
    the image's ENV and the ARGs that are visible. `env_uncached` are predefined ones (proxies) that are set but enter no key
    and no history. `scripts` are heredocs run by their `#!`: (path, content) of executable files that exist in the step only,
    below /dev/pipes. `user` is the USER line's text, resolved in the rootfs when the step starts. `cwd` is absolute.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str = ""
    env_uncached: tuple[tuple[str, str], ...] = ()
    scripts: tuple[tuple[str, bytes], ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = "default"  # default, none, host
    security: str = "sandbox"  # sandbox, insecure


class CopyOp(NamedTuple):
    """One COPY or ADD; `sources` in order, each with the paths it gives.

    `paths[i]` belongs to `sources[i]` and holds its patterns (Go filepath.Match wildcards, already unquoted); it is () for
    inline files, URLs and git. `destination` is expanded and keeps its trailing slash; made absolute with WORKDIR.
    `owner` is the text of --chown, "" for none. `mode` is the text of --chmod (octal or symbolic), "" for none.
    `is_add` turns on archives; `unpack` None is ADD's rule, True and False are --unpack. `follow_parents` is --parents.
    """

    sources: tuple[CopySource, ...]
    paths: tuple[tuple[str, ...], ...]
    destination: str
    owner: str = ""
    mode: str = ""
    is_add: bool = False
    unpack: bool | None = None
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class WorkdirOp(NamedTuple):
    """Make `path` (absolute) if it isn't there, 0755, owned by `user` as it resolves in the rootfs ("" is 0:0)."""

    path: str
    user: str = ""


Op = Union[RunOp, CopyOp, WorkdirOp]
