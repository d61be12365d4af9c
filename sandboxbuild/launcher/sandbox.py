"""One build's sandbox: bundle, gateway and runtime, started together and gone together.

In order: a folder for the gateway's socket, the gateway, the sandbox with its mounts. Each is undone in reverse, whatever
happened, and a second signal makes the undoing quick.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.gateway.process import Gateway
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
    """

    build_id: str
    sources: Sources
    ids: IdPlan
    bundle: Bundle
    store: str
    network: str
    scratch: str = ""
    connects_as_root: bool = False


@contextmanager
def started_sandbox(
    plan: SandboxPlan, gateway: GatewayConfig, runtime: Runtime, interruption: Interruption
) -> Iterator[Sandbox]:
    """A sandbox whose executor runs and whose uplink leads to a gateway made of `gateway` (its socket is filled in here).

    Gateway and sandbox start side by side; the executor asks nothing of the gateway before it gets its request.
    """
    uid, gid = outside_id(plan.ids.uids, plan.ids.identity), outside_id(plan.ids.gids, plan.ids.identity)
    peer = outside_id(plan.ids.uids, 0) if plan.connects_as_root else uid
    with ExitStack() as stack:
        folder = stack.enter_context(uplink_folder(uid, gid))
        config = gateway._replace(socket_path=f"{folder}/{os.path.basename(UPLINK_PATH)}", socket_uid=uid, peer_uids=(peer,))
        starting = _StartingGateway(config)
        stack.callback(starting.close)
        sandbox = runtime.launch(sandbox_spec(plan, folder))
        stack.callback(stop, sandbox, interruption)
        starting.wait()
        yield sandbox


class _StartingGateway:
    """A gateway that is started by a thread of its own."""

    def __init__(self, config: GatewayConfig) -> None:
        self._gateway: Gateway | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, args=(config,), name="gateway start")
        self._thread.start()

    def _start(self, config: GatewayConfig) -> None:
        try:
            self._gateway = Gateway.start(config)
        except BaseException as error:  # raised by wait(), in the thread that wants the gateway
            self._error = error

    def wait(self) -> None:
        """Until it listens. Raises what kept it from that."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._thread.join()
        if self._gateway is not None:
            self._gateway.close()


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
