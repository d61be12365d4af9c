"""A repository on its server: smart HTTP, protocol version 2, for one commit without its history.

Source: gitprotocol-http, gitprotocol-v2.
"""

from __future__ import annotations

from typing import Final

from sandboxbuild.contexts import Fetch
from sandboxbuild.contexts.gitwire import (
    Ref,
    candidates,
    choose_ref,
    fetch_request,
    is_commit_id,
    ls_refs_request,
    read_capabilities,
    read_refs,
)
from sandboxbuild.contexts.pktline import read_packets
from sandboxbuild.errors import ContextError
from sandboxbuild.registry import BytesBody, Response
from sandboxbuild.registry.uplink import LOCATION_HEADER

SERVICE: Final = "git-upload-pack"
PROTOCOL: Final = {"git-protocol": "version=2"}
_SHOWN: Final = 200


class Remote:
    """One repository on its server."""

    def __init__(self, url: str, fetch: Fetch) -> None:
        self._url = url.rstrip("/")
        self._shown = url[:_SHOWN]
        self._fetch = fetch

    def resolve(self, reference: str) -> Ref:
        """What is to be fetched. A whole commit id needs no look at the refs."""
        self._discover()
        if is_commit_id(reference):
            return Ref(b"", reference.encode("ascii"))
        request = ls_refs_request(candidates(reference) if not _is_short(reference) else ())
        response = self._post(request)
        try:
            ref = choose_ref(read_refs(read_packets(response)), reference)
        finally:
            response.close()
        if ref is None:
            hint = (
                "a commit is named by all of its 40 digits" if _is_short(reference) else "a branch, a tag, or a whole commit id"
            )
            raise ContextError(f"{self._shown} has no {reference[:_SHOWN] or 'HEAD'!r}", hint=hint)
        return ref

    def fetch(self, wanted: bytes) -> Response:
        return self._post(fetch_request(wanted, 1))

    def _discover(self) -> None:
        """The server's capabilities; a redirect here moves the repository, as in git."""
        asked = f"{self._url}/info/refs?service={SERVICE}"
        response = self._fetch(asked, PROTOCOL)
        try:
            self._expect(response, f"application/x-{SERVICE}-advertisement")
            read_capabilities(read_packets(response))
            moved = response.headers.get(LOCATION_HEADER, "")
            if moved.endswith(f"/info/refs?service={SERVICE}"):
                self._url = moved.removesuffix(f"/info/refs?service={SERVICE}")
        finally:
            response.close()

    def _post(self, request: bytes) -> Response:
        headers = {**PROTOCOL, "content-type": f"application/x-{SERVICE}-request"}
        response = self._fetch(f"{self._url}/{SERVICE}", headers, BytesBody(request))
        try:
            self._expect(response, f"application/x-{SERVICE}-result")
        except BaseException:
            response.close()
            raise
        return response

    def _expect(self, response: Response, content_type: str) -> None:
        if response.status in (401, 403):
            raise ContextError(
                f"{self._shown} wants a login: HTTP status {response.status}", hint="--secret id=GIT_AUTH_TOKEN gives one"
            )
        if response.status != 200:
            raise ContextError(f"{self._shown} can't be fetched: HTTP status {response.status}")
        if response.headers.get("content-type", "").partition(";")[0].strip() != content_type:
            raise ContextError(f"{self._shown} is no git repository that smart HTTP serves")


def _is_short(reference: str) -> bool:
    return 7 <= len(reference) < 40 and all(digit in "0123456789abcdef" for digit in reference)
