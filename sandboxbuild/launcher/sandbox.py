"""One build's sandbox: bundle, gateway and runtime, started together and gone together.

In order: a folder for the gateway's socket, the gateway, the sandbox with its mounts. Each is undone in reverse, whatever
happened, and a second signal makes the undoing quick.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from sandboxbuild.errors import Interrupted, SandboxbuildError
from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.gateway.process import Gateway, OnRecord
from sandboxbuild.launcher.interruption import Interruption
from sandboxbuild.launcher.sources import Sources
from sandboxbuild.launcher.stores import outside_id
from sandboxbuild.launcher.uplinkfolder import uplink_folder
from sandboxbuild.protocol.request import CONTEXTS_PATH, STORE_PATH, UPLINK_PATH
from sandboxbuild.runtimes import Runtime, Sandbox, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.bundle import TARGET, Bundle
from sandboxbuild.runtimes.namespaces import id_ranges
from sandboxbuild.system.idmap import IdPlan

GRACE_S: Final = 3.0  # for an executor to end by itself once its standard input is closed


class SandboxPlan(NamedTuple):
    """All that decides what the sandbox is. `network` is none or host, `scratch` a folder of the build's, as in SandboxSpec.

    `connects_as_root` says that the executor's connections to the gateway come from the host id of the sandbox's 0.
    With `tcp_host` the gateway listens on that address of the host's, for sandboxes into which no unix socket leads.
    """

    build_id: str
    sources: Sources
    ids: IdPlan
    bundle: Bundle
    store: str
    network: str
    scratch: str = ""
    cgroups: tuple[str, ...] = ()
    connects_as_root: bool = False
    tcp_host: str = ""


class StartedSandbox(NamedTuple):
    """A sandbox, and where its gateway listens if not on the socket: host, port and the build's token."""

    sandbox: Sandbox
    tcp_host: str = ""
    tcp_port: int = 0
    token: str = ""


@contextmanager
def started_sandbox(
    plan: SandboxPlan,
    gateway: GatewayConfig,
    runtime: Runtime,
    interruption: Interruption,
    on_record: OnRecord | None = None,
) -> Iterator[StartedSandbox]:
    """A sandbox whose executor runs and whose uplink leads to a gateway made of `gateway` (its socket is filled in here).

    Gateway and sandbox start side by side; the executor asks nothing of the gateway before it gets its request. `on_record`
    gets the audit records, the last ones when the sandbox is gone. An error inside is told as the gateway's, if it has died.
    """
    uid, gid = outside_id(plan.ids.uids, plan.ids.identity), outside_id(plan.ids.gids, plan.ids.identity)
    peer = outside_id(plan.ids.uids, 0) if plan.connects_as_root else uid
    with ExitStack() as stack:
        folder = stack.enter_context(uplink_folder(uid, gid))
        if plan.tcp_host:
            config = gateway._replace(tcp_host=plan.tcp_host, token=secrets.token_hex(32))
        else:
            path = f"{folder}/{os.path.basename(UPLINK_PATH)}"
            config = gateway._replace(socket_path=path, socket_uid=uid, peer_uids=(peer,))
        starting = _StartingGateway(config, on_record)
        stack.callback(starting.close)
        sandbox = runtime.launch(sandbox_spec(plan, folder))
        stack.callback(stop, sandbox, interruption)
        address = starting.wait()
        try:
            yield StartedSandbox(sandbox, plan.tcp_host, tcp_port_of(address) if plan.tcp_host else 0, config.token)
        except SandboxbuildError as error:
            starting.explain(error)
            raise


class _StartingGateway:
    """A gateway that is started by a thread of its own."""

    def __init__(self, config: GatewayConfig, on_record: OnRecord | None) -> None:
        self._gateway: Gateway | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, args=(config, on_record), name="gateway start")
        self._thread.start()

    def _start(self, config: GatewayConfig, on_record: OnRecord | None) -> None:
        try:
            self._gateway = Gateway.start(config, on_record)
        except BaseException as error:  # raised by wait(), in the thread that wants the gateway
            self._error = error

    def wait(self) -> str:
        """Until it listens; gives where. Raises what kept it from that."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._gateway is not None, "the thread has ended without an error"
        return self._gateway.address

    def explain(self, error: SandboxbuildError) -> None:
        """Raise what lies behind `error`, if the gateway ended in the middle of the build."""
        if self._gateway is not None and not isinstance(error, Interrupted) and self._gateway.has_ended():
            status = self._gateway.status
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise SandboxbuildError(
                f"the gateway {how} in the middle of the build", hint="nothing of the build is left; run it again"
            ) from error

    def close(self) -> None:
        self._thread.join()
        if self._gateway is not None:
            self._gateway.close()


def tcp_port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def sandbox_spec(plan: SandboxPlan, uplink: str) -> SandboxSpec:
    """Pure: what the driver is told."""
    uid_ranges, gid_ranges = id_ranges(plan.ids)
    return SandboxSpec(
        build_id=plan.build_id,
        argv=(*plan.bundle.argv_prefix, "-m", "sandboxbuild.executor.main"),
        environment=plan.bundle.environment,
        mounts=(SandboxMount(plan.bundle.path, TARGET), *build_mounts(plan, uplink)),
        uid_ranges=uid_ranges,
        gid_ranges=gid_ranges,
        identity=plan.ids.identity,
        network=plan.network,
        scratch=plan.scratch,
        cgroups=plan.cgroups,
    )


def build_mounts(plan: SandboxPlan, uplink: str) -> tuple[SandboxMount, ...]:
    """The store, the uplink's folder and the contexts; contexts read-only, with owners as the image is to have them."""
    is_mapped = os.geteuid() == 0
    mounts = [
        SandboxMount(plan.store, STORE_PATH, writable=True),
        SandboxMount(uplink, os.path.dirname(UPLINK_PATH)),
    ]
    if plan.sources.folder:
        mounts.append(SandboxMount(plan.sources.folder, f"{CONTEXTS_PATH}/default", idmapped=is_mapped))
    for name, folder in plan.sources.named_folders:
        mounts.append(SandboxMount(folder, f"{CONTEXTS_PATH}/named/{name}", idmapped=is_mapped))
    return tuple(mounts)


def stop(sandbox: Sandbox, interruption: Interruption) -> None:
    """End the sandbox: by closing its input and a moment's patience, then by force."""
    try:
        sandbox.stdin.close()
    except OSError:
        pass
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and not interruption.is_impatient:
        try:
            sandbox.wait(0.05)
            break
        except TimeoutError:
            continue
    sandbox.kill()
    sandbox.close()
