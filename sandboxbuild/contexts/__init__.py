"""Build contexts that aren't folders of the host: archives, files of the web, git repositories. Each becomes a folder.

All of this runs inside the sandbox, on bytes of strangers: nothing here starts a program, and everything has a limit.
"""

from __future__ import annotations

from typing import Protocol

from sandboxbuild.registry import Body, Response


class Fetch(Protocol):
    """A GET of a URL, or a POST of `body`, through the gateway; see registry.uplink.fetch_url. Any status is an answer."""

    def __call__(self, url: str, headers: dict[str, str], body: Body | None = None) -> Response: ...
