"""What a step's downloads cost in a whole build, against the same without one: `python -m tests.bench.step_throughput [MiB]`.

nginx on loopback serves a file by TLS and plain HTTP; curl takes it on the host and in a RUN of the real command, in turns.
Also the time of a small request, and the gateway's memory with 64 connections open. Writes JSON. Needs root and curl.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import trustme

from tests.integration.registry_fixtures import running_registry
from tests.support.builder import Builder, run_tool
from tests.support.images import debian_layout
from tests.support.outside import Outside, outside_world, pid_of_gateway
from tests.support.world import own_address

NAME = "big.example.com"
ROUNDS = 3
CONNECTIONS = 64
FORMAT = "took %{time_total} %{time_appconnect} %{time_connect}\\n"
POLICY = f'[network]\nranges = ["127.0.0.0/8"]\n[network.run]\nallow = ["{NAME}"]\n'
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on;
  server {{ listen {address}:80; listen {address}:443 ssl; root {folder}/www;
           ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem; }}
}}
"""


@contextmanager
def served(folder: Path, mebibytes: int) -> Iterator[str]:
    """nginx with /big and /small; gives its address."""
    (folder / "www").mkdir()
    (folder / "www/small").write_text("small")
    with (folder / "www/big").open("wb") as sink:
        sink.truncate(mebibytes << 20)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    address = own_address()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, address=address))
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin") or "nginx"
    with subprocess.Popen([program, "-c", str(folder / "nginx.conf")]) as process:
        time.sleep(0.5)
        try:
            yield address
        finally:
            process.terminate()


def times(text: str) -> list[tuple[float, float, float]]:
    """What curl said: seconds in all, until TLS was up, until connected."""
    found = re.findall(r"took ([0-9.]+) ([0-9.]+) ([0-9.]+)", text)
    return [(float(total), float(secure), float(connected)) for total, secure, connected in found]


def curl(path: str, scheme: str) -> str:
    return f"curl -s --cacert /ca.pem -o /dev/null -w '{FORMAT}' {scheme}://{NAME}/{path}"


def on_host(folder: Path, address: str, path: str, scheme: str) -> tuple[float, float, float]:
    port = 443 if scheme == "https" else 80
    argv = ["curl", "-s", "--cacert", str(folder / "ca.pem"), "-o", "/dev/null", "-w", FORMAT.replace("\\n", "\n")]
    return times(run_tool(*argv, "--resolve", f"{NAME}:{port}:{address}", f"{scheme}://{NAME}/{path}"))[0]


def in_step(outside: Outside, base: str, script: str) -> str:
    context = outside.builder.context({"Dockerfile": f"FROM {base}\nCOPY ca.pem /ca.pem\nRUN {script}\n"})
    shutil.copy(outside.folder / "ca.pem", context / "ca.pem")
    return outside.builder.run("--no-cache", "--policy-file", outside.policy(POLICY), context).log


def with_curl(registry: str, folder: Path) -> str:
    """A base with curl, made by a build of its own."""
    run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{debian_layout()}:latest", f"docker://{registry}/debian:12")
    builder = Builder(folder / "making")
    builder.folder.mkdir()
    install = "apt-get update -qq && apt-get install -qqy --no-install-recommends curl"
    context = builder.context({"Dockerfile": f"FROM {registry}/debian:12\nRUN {install}\n"})
    builder.run("-t", f"{registry}/curl:1", "--push", context)
    builder.remove_store()
    return f"{registry}/curl:1"


def throughput(outside: Outside, base: str, address: str, mebibytes: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for scheme in ("https", "http"):
        host, step = [], []
        for _ in range(ROUNDS):
            host.append(on_host(outside.folder, address, "big", scheme)[0])
            step.append(times(in_step(outside, base, curl("big", scheme)))[0][0])
        rates = [round(mebibytes * 1.048576 / median(each)) for each in (host, step)]
        found[scheme] = {"host_mb_s": rates[0], "step_mb_s": rates[1], "percent": round(100 * rates[1] / rates[0])}
    return found


def first_connection(outside: Outside, base: str, address: str) -> dict[str, float]:
    """Milliseconds of a small HTTPS request: alone on the host, and as the first and the tenth of a step."""
    host = median([on_host(outside.folder, address, "small", "https")[0] for _ in range(10)])
    said = times(in_step(outside, base, " && ".join([curl("small", "https")] * 10)))
    return {
        "host_ms": round(host * 1000, 1),
        "first_in_step_ms": round(said[0][0] * 1000, 1),
        "later_in_step_ms": round(median(total for total, _, _ in said[1:]) * 1000, 1),
    }


def memory(outside: Outside, base: str) -> dict[str, float]:
    """The gateway's resident memory with CONNECTIONS downloads under way."""
    slow = f"curl -s --cacert /ca.pem --limit-rate 200k -o /dev/null https://{NAME}/big"
    script = f"for n in $(seq {CONNECTIONS}); do timeout 8 {slow} & done; wait; true"
    context = outside.builder.context({"Dockerfile": f"FROM {base}\nCOPY ca.pem /ca.pem\nRUN {script}\n"})
    highest = 0
    arguments = ("run", "--progress", "plain", "--no-cache", "--policy-file", outside.policy(POLICY), context)
    with outside.builder.popen(*arguments) as process:
        while process.poll() is None:
            gateway = pid_of_gateway(process.pid)
            try:
                status = Path(f"/proc/{gateway}/status").read_text() if gateway else ""
            except OSError:
                status = ""
            highest = max(highest, *map(int, re.findall(r"VmRSS:\s+(\d+)", status)), 0)
            time.sleep(0.2)
    return {"connections": CONNECTIONS, "gateway_mb": round(highest / 1000, 1)}


def main(mebibytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        with running_registry(folder / "registry") as registry:
            base = with_curl(registry.host, folder)
            with outside_world(folder, "other.example.com") as outside, served(folder, mebibytes) as address:
                outside.resolver.table({NAME: address})
                found = {
                    "mebibytes": mebibytes,
                    "throughput": throughput(outside, base, address, mebibytes),
                    "small_request": first_connection(outside, base, address),
                    "memory": memory(outside, base),
                }
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
