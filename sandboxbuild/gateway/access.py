"""Which registry requests are this build's: (what was asked for at the start, a request) -> allowed or refused. Pure."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, Union

from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.policy.isolation import RegistryAccess, SourceRules
from sandboxbuild.registry.routes import RegistryRequest, is_digest


class PushTarget(NamedTuple):
    """A repository to push to. `tags` None means any tag; in each case manifests may be put by digest."""

    host: str
    repository: str
    tags: frozenset[str] | None

    def takes(self, reference: str) -> bool:
        return self.tags is None or is_digest(reference) or reference in self.tags


class Granted(NamedTuple):
    """`rule` is the entry that allows the request."""

    rule: str


class Declined(NamedTuple):
    """Why not, and what would allow it."""

    reason: str
    hint: str = ""


Verdict = Union[Granted, Declined]


class BuildAccess(NamedTuple):
    """What one build may ask registries for. `from_dockerfile` says that the Dockerfile's own names are among the pulls."""

    pulls: tuple[str, ...] = ()
    pushes: tuple[PushTarget, ...] = ()
    sources: SourceRules = SourceRules()
    from_dockerfile: bool = False

    def judge(self, host: str, request: RegistryRequest, vouched: Container[str] = ()) -> Verdict:
        """Whether `request` to the registry `host` may be made. Upload sessions are checked besides, by who began them.

        `vouched` are manifests that an allowed index names, as "host/path@digest".
        """
        if request.operation == "ping":
            known = any(self._knows(pattern, host) for pattern in self.pulls) or any(t.host == host for t in self.pushes)
            return Granted("ping") if known else self._unlisted(host, "")
        if request.writes:
            return self._judge_write(host, request)
        return self._judge_read(host, request, vouched)

    def may_pull(self, host: str, repository: str) -> str:
        """The pattern that lets the build read from a repository, "" if none does."""
        return next((pattern for pattern in self.pulls if matches(pattern, f"{host}/{repository}")), "")

    def _knows(self, pattern: str, host: str) -> bool:
        first = pattern.split("/", 1)[0]
        return first == "**" or fnmatchcase(host, first)

    def _judge_read(self, host: str, request: RegistryRequest, vouched: Container[str]) -> Verdict:
        pattern = self.may_pull(host, request.repository)
        if pattern:
            return self._judge_source(host, request, pattern, vouched)
        if request.method == "HEAD" and self._target(host, request.repository) is not None:
            return Granted("push")
        return self._unlisted(host, request.repository)

    def _judge_source(self, host: str, request: RegistryRequest, pattern: str, vouched: Container[str]) -> Verdict:
        """[sources]: a manifest that is named by tag where a digest is demanded, or a name that no pattern fits."""
        if request.operation != "manifest":
            return Granted(pattern)
        name = f"{host}/{request.repository}"
        by_digest = is_digest(request.reference)
        if by_digest and f"{name}@{request.reference}" in vouched:
            return Granted(pattern)
        fault = source_fault(self.sources, name, "" if by_digest else request.reference, request.reference if by_digest else "")
        return fault or Granted(pattern)

    def pinned(self, host: str, request: RegistryRequest) -> str:
        """The digest that [sources] demands of what the request names by tag; "" if it demands none."""
        return dict(self.sources.digests).get(f"{host}/{request.repository}:{request.reference}", "")

    def _judge_write(self, host: str, request: RegistryRequest) -> Verdict:
        target = self._target(host, request.repository)
        name = f"{host}/{request.repository}"
        if target is None:
            return Declined(f"pushing to {name} isn't allowed", "builds push to the destinations on the command line alone")
        if request.operation == "manifest" and not target.takes(request.reference):
            return Declined(f"pushing {name}:{request.reference} isn't allowed", f"tags of this build: {_listed(target.tags)}")
        source = request.mount_from
        if source and not self.may_pull(host, source) and self._target(host, source) is None:
            return Declined(f"mounting from {host}/{source} isn't allowed: this build may not pull from there")
        return Granted("push")

    def _unlisted(self, host: str, repository: str) -> Declined:
        name = f"{host}/{repository}" if repository else host
        also = " and from_dockerfile = true" if self.from_dockerfile else ""
        return Declined(f"pulling from {name} isn't allowed", f'allow it with: [registries] pull = ["{name}"]{also}')

    def _target(self, host: str, repository: str) -> PushTarget | None:
        return next((t for t in self.pushes if t.host == host and t.repository == repository), None)


def build_access(registries: RegistryAccess, sources: SourceRules, cache_repositories: Sequence[str] = ()) -> BuildAccess:
    """Raises UsageError for a push that isn't a reference."""
    tags: dict[tuple[str, str], set[str]] = {}
    for text in registries.pushes:
        reference = parse_reference(text)
        tags.setdefault((reference.registry, reference.repository), set()).update({reference.tag} - {""})
    caches = [parse_reference(text) for text in cache_repositories]
    targets = [PushTarget(cache.registry, cache.repository, None) for cache in caches]
    targets += [PushTarget(host, name, frozenset(found)) for (host, name), found in tags.items()]
    pulls = (*registries.pull, *(cache.name for cache in caches))
    return BuildAccess(pulls, tuple(targets), sources, registries.from_dockerfile)


def matches(pattern: str, name: str) -> bool:
    """Whether "host/path" fits a pattern: * within a segment, ** for any number of segments."""
    return _matches(pattern.split("/"), name.split("/"))


def _matches(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(pattern[1:], name[1:])


def source_fault(sources: SourceRules, name: str, tag: str, digest: str) -> Declined | None:
    """What [sources] has against a base "host/path" that is named by tag, by digest, or by both."""
    shown = f"{name}@{digest}" if digest else f"{name}:{tag}"
    if sources.allow and not any(_is_source(allowed, name, tag, digest) for allowed in sources.allow):
        line = json.dumps(shown)
        return Declined(f"{shown} is not among the allowed sources", f"allow it with: [sources] allow = [{line}]")
    if sources.require_digest and not digest:
        return Declined(f"{shown} has no digest, which [sources] demands", f"write {name}@sha256:...")
    return None


def _is_source(allowed: str, name: str, tag: str, digest: str) -> bool:
    """Whether a pattern of [sources] fits; one with a tag fits other tags not, but any digest of the repository."""
    pinned, at, wanted = allowed.partition("@")
    if at:
        return matches(pinned, name) and digest == wanted
    path, colon, tag_pattern = allowed.rpartition(":")
    if not colon or "/" in tag_pattern:
        return matches(allowed, name)
    return matches(path, name) and (not tag or fnmatchcase(tag, tag_pattern))


def _listed(tags: frozenset[str] | None) -> str:
    return ", ".join(sorted(tags or ())) or "none, by digest only"
