"""What an executor does that a stranger's code has taken over: it asks the gateway for all that isn't its build's.

A mutant of the package runs this inside the sandbox, in the place where the executor opens its uplink. The constants below are
filled in for each build (tests/support/mutants.py); what came of each request goes to the executor's log.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys

REGISTRY, STRANGER = "REGISTRY", "STRANGER"  # host:port; the build may push REGISTRY/team/app:1
PRIVATE_BLOB = "PRIVATE_BLOB"  # a digest in private/secret
UPLINK = "/sandboxbuild/uplink/socket"
THEIRS = "THEIRS"  # the folder of another build's socket, on the host
CONFIG = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def manifest(config: bytes) -> bytes:
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": len(config)}
    return json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": described, "layers": []}).encode()


def talk(raw: bytes, path: str = UPLINK) -> bytes:
    """All that a gateway answers to some bytes."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
        except OSError:
            pass
    return answer


def ask(method: str, target: str, body: bytes = b"", **headers: str) -> tuple[str, str]:
    """Status and Location of the answer to one request."""
    fields = {"Host": "gateway", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if method in ("POST", "PUT", "PATCH"):
        fields["Content-Length"] = str(len(body))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    lines = talk(head.encode() + b"\r\n" + body).partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    status = lines[0].split(" ")[1] if " " in lines[0] else "none"
    places = [line.partition(": ")[2] for line in lines if line.lower().startswith("location: ")]
    return status, places[0] if places else ""


def push_blob(host: str, repository: str, content: bytes) -> str:
    status, place = ask("POST", f"/v1/registry/{host}/v2/{repository}/blobs/uploads/")
    if not place:
        return status
    return ask("PUT", f"/v1/registry/{host}{place}?digest={digest_of(content)}", content)[0]


def push(host: str, repository: str, tag: str) -> str:
    blob = push_blob(host, repository, CONFIG)
    target = f"/v1/registry/{host}/v2/{repository}/manifests/{tag}"
    return f"{blob} {ask('PUT', target, manifest(CONFIG), Content_Type=MEDIA_TYPE)[0]}"


def use_the_session_elsewhere() -> str:
    """An upload that was begun in the build's own repository, finished in another."""
    _, place = ask("POST", f"/v1/registry/{REGISTRY}/v2/team/app/blobs/uploads/")
    token = place.rpartition("/")[2]
    target = f"/v1/registry/{REGISTRY}/v2/team/other/blobs/uploads/{token}?digest={digest_of(b'swapped')}"
    return ask("PUT", target, b"swapped")[0]


def smuggle(framing: str) -> str:
    """A request for the private repository where two parsers may see a body."""
    inner = f"GET /v1/registry/{REGISTRY}/v2/private/secret/manifests/1 HTTP/1.1\r\nHost: gateway\r\n\r\n"
    outer = f"POST /v1/names/x.example.com?step=1&kind=run HTTP/1.1\r\nHost: gateway\r\n{framing}\r\n\r\n"
    return talk((outer + inner).encode()).partition(b"\r\n")[0].decode("latin-1")


def ask_theirs() -> str:
    """The gateway of another build, wherever its socket could be seen."""
    request = f"GET /v1/registry/{REGISTRY}/v2/private/secret/tags/list HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()
    for top in ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/theirs"):
        try:
            return talk(request, (top if top == "/theirs" else f"{top}{THEIRS}") + "/uplink").partition(b"\r\n")[0].decode()
        except OSError:
            continue
    return "no such socket"


def go_round_the_gateway() -> str:
    """A connection without the gateway, which only a network of the executor's own could carry."""
    host, _, port = STRANGER.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(f"GET /direct HTTP/1.1\r\nHost: {STRANGER}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(99).partition(b"\r\n")[0].decode()
    except OSError as error:
        return str(error)


def attempts() -> dict[str, str]:
    """Each attempt, and what the gateway said."""
    private = f"/v1/registry/{REGISTRY}/v2/private/secret"
    own = f"/v1/registry/{REGISTRY}/v2/team/app"
    return {
        "own-tag": push(REGISTRY, "team/app", "1"),
        "other-tag": push(REGISTRY, "team/app", "2"),
        "other-repository": push(REGISTRY, "team/other", "1"),
        "below-own": push(REGISTRY, "team/app/below", "1"),
        "stranger": push(STRANGER, "team/app", "1"),
        "mount": ask("POST", f"{own}/blobs/uploads/?mount={PRIVATE_BLOB}&from=private/secret")[0],
        "session": use_the_session_elsewhere(),
        "delete": ask("DELETE", f"{own}/manifests/1")[0],
        "manifest": ask("GET", f"{private}/manifests/1")[0],
        "blob": ask("GET", f"{private}/blobs/{PRIVATE_BLOB}")[0],
        "blob-range": ask("GET", f"{private}/blobs/{PRIVATE_BLOB}", Range="bytes=0-")[0],
        "head": ask("HEAD", f"{private}/manifests/1")[0],
        "tags": ask("GET", f"{private}/tags/list")[0],
        "referrers": ask("GET", f"{private}/referrers/{PRIVATE_BLOB}")[0],
        "blob-in-own": ask("GET", f"{own}/blobs/{PRIVATE_BLOB}")[0],
        "catalog": ask("GET", f"/v1/registry/{REGISTRY}/v2/_catalog")[0],
        "dots": ask("GET", f"{own}/../../private/secret/manifests/1", Accept=MEDIA_TYPE)[0],
        "encoded-dots": ask("GET", f"{own}/%2e%2e/%2e%2e/private/secret/manifests/1")[0],
        "encoded-slash": ask("GET", f"{own}%2f..%2f..%2fprivate/secret/manifests/1")[0],
        "double-slash": ask("GET", f"/v1/registry/{REGISTRY}//v2/private/secret/manifests/1")[0],
        "query": ask("PUT", f"{own}/manifests/1?x=/../../private/secret", manifest(CONFIG), Content_Type=MEDIA_TYPE)[0],
        "user": ask("GET", f"/v1/registry/{REGISTRY}@{STRANGER}/v2/")[0],
        "absolute": ask("GET", f"http://{STRANGER}/v2/")[0],
        "host": ask("GET", "/v2/", Host=STRANGER)[0],
        "fetch": ask("GET", "/v1/fetch", Sandboxbuild_Url=f"http://{REGISTRY}/v2/private/secret/manifests/1")[0],
        "connect": ask("CONNECT", REGISTRY, Host=REGISTRY, Sandboxbuild_Step="1", Sandboxbuild_Kind="fetch")[0],
        "smuggled-lengths": smuggle("Content-Length: 0\r\nContent-Length: 99"),
        "smuggled-coding": smuggle("Content-Length: 4\r\nTransfer-Encoding: chunked"),
        "smuggled-chunks": smuggle("Transfer-Encoding: chunked"),
        "smuggled-fold": smuggle("X: y\r\n Content-Length: 99"),
        "smuggled-behind": smuggle("Content-Length: 0"),
        "their-socket": ask_theirs(),
        "direct": go_round_the_gateway(),
    }  # fmt: skip


def attack() -> None:
    for name, said in attempts().items():
        sys.stderr.write(f"hostile {name}: {said}\n")
    sys.stderr.flush()
