"""Profile: a runtime and a default policy under a name, one file in profiles/."""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.document import Policy, read_policy
from sandboxbuild.policy.library import PROFILES, Library, read_file


class Profile(NamedTuple):
    """`policy` is the default one, which the same file holds."""

    name: str
    description: str
    runtime: str
    policy: Policy


def load_profile(library: Library, name: str) -> Profile:
    """Raises PolicyError, for a file that is no profile with file and line."""
    found = library.find(PROFILES, name)
    policy = read_policy(found.path, found.data)
    head = policy.document.profile
    if head is None:
        raise PolicyError(f"{found.path}:1: no [profile] with a runtime and a description")
    if policy.document.narrows:
        raise PolicyError(f"{policy.place('narrows')}: narrows: a profile's own policy has nothing to narrow")
    return Profile(name, head.description, head.runtime, policy)


def load_policy(path: str) -> Policy:
    """A policy file that an operator names. Raises PolicyError with file and line."""
    policy = read_policy(path, read_file(path))
    if policy.document.profile is not None:
        raise PolicyError(f"{policy.place('profile')}: profile: a policy names no runtime; this file is a profile")
    return policy
