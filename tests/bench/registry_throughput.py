"""Pull and push of one large blob on loopback, with and without the gateway: `python -m tests.bench.registry_throughput [MiB]`.

Each pull is verified (SHA-256), as a build's is. Writes JSON; says nothing about what is good. Rounds alternate, so that a
neighbour's load falls on both sides.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from sandboxbuild.gateway.builds import make_remote, make_wire
from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry import CHUNK_BYTES, Transport
from sandboxbuild.registry.pull import stream_blob
from sandboxbuild.registry.push import PushBlob, push_blob
from sandboxbuild.registry.repository import Repository
from tests.integration.registry_fixtures import gateway_for, make_authority, running_registry

ROUNDS = 5


def timed(work: Callable[[], object], size: int) -> float:
    """MB/s."""
    began = time.perf_counter()
    work()
    return size / 1e6 / (time.perf_counter() - began)


def pull(transport: Transport, host: str, descriptor: Descriptor) -> None:
    with stream_blob(Repository(transport, host, "a"), descriptor) as stream:
        while stream.read(CHUNK_BYTES):
            pass


def sample(folder: Path, size: int) -> PushBlob:
    """A blob of `size` bytes in a file."""
    path = folder / "blob"
    digest = hashlib.sha256()
    block = os.urandom(CHUNK_BYTES)
    with path.open("wb") as sink:
        for _ in range(size // CHUNK_BYTES):
            sink.write(block)
            digest.update(block)

    def open_at(offset: int):  # type: ignore[no-untyped-def]
        stream = path.open("rb")
        stream.seek(offset)
        return stream

    return PushBlob(Descriptor(OCI_LAYER, f"sha256:{digest.hexdigest()}", size), open_at)


def measure(folder: Path, size: int, *, secure: bool) -> dict[str, object]:
    blob = sample(folder, size)
    authority, file = make_authority(folder)
    with running_registry(folder, tls=authority.issue_cert("127.0.0.1") if secure else None) as registry:
        host = registry.host
        settings = {"authorities": (("", str(file)),)}
        direct = make_remote(GatewayConfig("b", **settings), make_wire(GatewayConfig("b", **settings)))
        access = RegistryAccess(pull=("**",), pushes=(f"{host}/a:1", f"{host}/b:1"))
        with gateway_for(folder, registries=access, **settings) as gate:
            pushed = {
                "gateway": timed(lambda: push_blob(Repository(gate.transport, host, "a"), blob), size),
                "direct": timed(lambda: push_blob(Repository(direct, host, "b"), blob), size),
            }
            pulled: dict[str, list[float]] = {"direct": [], "gateway": []}
            for _ in range(ROUNDS):
                pulled["direct"].append(timed(lambda: pull(direct, host, blob.descriptor), size))
                pulled["gateway"].append(timed(lambda: pull(gate.transport, host, blob.descriptor), size))
            status = Path(f"/proc/{gate.gateway.pid}/status").read_text()
    ratios = [through / straight for through, straight in zip(pulled["gateway"], pulled["direct"], strict=True)]
    return {
        "push_mb_per_s": {name: round(value) for name, value in pushed.items()},
        "pull_mb_per_s": {name: [round(value) for value in values] for name, values in pulled.items()},
        "pull_ratio_median": round(median(ratios), 2),
        "gateway_peak_kib": int(status.split("VmHWM:")[1].split()[0]),
    }


def main() -> None:
    size = int(sys.argv[1] if len(sys.argv) > 1 else 1024) * CHUNK_BYTES
    found: dict[str, object] = {"size_bytes": size, "load": os.getloadavg()[0], "cpus": os.cpu_count()}
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    for name, secure in (("plain", False), ("tls", True)):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            found[name] = measure(Path(folder), size, secure=secure)
    found["own_peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
