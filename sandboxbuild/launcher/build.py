"""The use case outside the sandbox, top to bottom: find the input, start the sandbox, listen, verify, write the outputs."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Final

from sandboxbuild.errors import DockerfileError, PolicyError, SandboxbuildError, StepFailed
from sandboxbuild.launcher import messages
from sandboxbuild.launcher.auditing import AuditTrail
from sandboxbuild.launcher.conversation import Conversation, Observer
from sandboxbuild.launcher.emulation import emulated_architectures
from sandboxbuild.launcher.gatewayconfig import ANY_REPOSITORY, gateway_config
from sandboxbuild.launcher.interruption import Interruption
from sandboxbuild.launcher.isolation import Host, confine
from sandboxbuild.launcher.limits import build_limits
from sandboxbuild.launcher.outcome import BuildOutcome, Record
from sandboxbuild.launcher.outputs import check_outputs, write_outputs
from sandboxbuild.launcher.planning import handed_over, pulled_repositories
from sandboxbuild.launcher.policies import check_base
from sandboxbuild.launcher.refusals import refusal_hint
from sandboxbuild.launcher.reports import forget_old, write_failure, write_file, write_reports
from sandboxbuild.launcher.request import image_names, make_request
from sandboxbuild.launcher.sandbox import SandboxPlan, StartedSandbox, started_sandbox
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.launcher.sources import Sources, find_sources
from sandboxbuild.launcher.sshagents import ssh_agents
from sandboxbuild.launcher.storedsources import stored_sources
from sandboxbuild.launcher.stores import bundle_folder, open_store
from sandboxbuild.launcher.syscalls import with_filter
from sandboxbuild.launcher.verify import verify_result
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.platform import host_platform
from sandboxbuild.plan.handovers import NamedRun
from sandboxbuild.policy.isolation import Isolation
from sandboxbuild.protocol.events import BaseResolved, BuildFailed, BuildSucceeded, Event, PushCompleted, WarningRaised
from sandboxbuild.protocol.request import BuildRequest
from sandboxbuild.runtimes.bundle import Bundle
from sandboxbuild.runtimes.bundles import used_bundle
from sandboxbuild.store import Store
from sandboxbuild.system import idmap

RESOLVER_LIMIT_BYTES: Final = 64 * 1024


def ignore(_event: Event | None) -> None:
    """An observer for those who want only the outcome."""


def build(
    settings: BuildSettings,
    observe: Observer = ignore,
    *,
    environ: Mapping[str, str] = os.environ,
    stdin: BinaryIO | None = None,
) -> BuildOutcome:
    """Build one image, keep it in the store, and write what was asked for. `observe` sees each event, and None now and then.

    Raises the errors of `errors`, each with its exit code; Interrupted for a signal, where this is the main thread.
    """
    build_id = f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(4)}"
    record = Record()

    def watch(event: Event | None) -> None:
        record.add(event)
        observe(event)

    forget_old(settings.reports)
    try:
        with Interruption() as interruption:
            outcome = _Build(settings, build_id, record, watch, interruption, environ).run(stdin or sys.stdin.buffer)
        write_reports(settings, outcome)
    except SandboxbuildError as error:
        write_failure(settings, build_id, record, error)
        raise
    return outcome


class _Build:
    """One build's common knowledge, so that each of its steps is a short method."""

    def __init__(
        self,
        settings: BuildSettings,
        build_id: str,
        record: Record,
        observe: Observer,
        interruption: Interruption,
        environ: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.build_id = build_id
        self.record = record
        self.observe = observe
        self.interruption = interruption
        self.environ = environ
        self.trail = AuditTrail(settings.audit_log)
        self.deadline = time.monotonic() + settings.timeout_s if settings.timeout_s else None
        self.pushes = image_names((*settings.pushes, *(settings.tags if settings.push_tags else ())), "--destination")
        self.names = tuple(dict.fromkeys((*image_names(settings.tags, "--tag"), *self.pushes)))

    def run(self, stdin: BinaryIO) -> BuildOutcome:
        settings = self.settings
        cache_folder = bundle_folder(self.environ, is_root=os.geteuid() == 0)
        isolation, host = confine(settings, self.environ, cache_folder)
        isolation = with_filter(isolation, cache_folder)
        self._limit_time(isolation.build_timeout_s)
        check_outputs(settings.outputs)
        sources = find_sources(settings, stdin, self.environ)
        ids = idmap.find()
        with self.interruption.raising():
            store = open_store(settings.store, self.environ, build_id=self.build_id, plan=ids)
        with store:
            store.hold()
            with self.interruption.raising():
                sources = stored_sources(sources, store)
            request = self._request(sources, isolation, ids.mode)
            with located(sources), self._audited():
                result = self._talk(request, isolation, host, sources, ids, store)
                self._learn(isolation)
            with self.interruption.raising():
                descriptor = self._verified(store, result)
                written = write_outputs(store, descriptor, settings.outputs, self.names, self._warn)
        return BuildOutcome(
            self.build_id, descriptor.media_type, descriptor.digest, descriptor.size_bytes,
            result.config_digest, self.names, self.record, written,
        )  # fmt: skip

    def _warn(self, message: str) -> None:
        self.observe(WarningRaised(message, None, ""))

    def _limit_time(self, limit_s: float) -> None:
        """The policy's limit, where it is the shorter one."""
        deadline = time.monotonic() + limit_s
        if limit_s and (self.deadline is None or deadline < self.deadline):
            self.deadline = deadline

    def _request(self, sources: Sources, isolation: Isolation, ids: str) -> BuildRequest:
        return make_request(
            self.settings,
            sources,
            build_id=self.build_id,
            names=self.names,
            pushes=self.pushes,
            isolation=isolation.step,
            ids=ids,
            build_platform=this_platform(),
            processors=len(os.sched_getaffinity(0)),
            resolv_conf=host_resolver() if has_host_network(isolation) else b"",
            emulated=emulated_architectures(),
        )

    def _talk(
        self, request: BuildRequest, isolation: Isolation, host: Host, sources: Sources, ids: idmap.IdPlan, store: Store
    ) -> BuildSucceeded:
        """Start the sandbox, and let the executor build in it."""
        pulls, named_runs = self._named(sources)
        gateway = gateway_config(
            self.settings,
            isolation,
            build_id=self.build_id,
            pulls=pulls,
            pushes=self.pushes,
            environ=self.environ,
            grants=sources.grants,
            named_runs=named_runs,
        )
        threading.Thread(target=messages.prepare, name="messages").start()  # ready when the executor is
        with (
            used_bundle(bundle_folder(self.environ, is_root=os.geteuid() == 0)) as bundle,
            ssh_agents(self.settings.ssh, self.environ) as agents,
            build_limits(
                isolation.step, self.build_id, self.environ, jobs=request.jobs, by_step=host.shows_processes
            ) as limits,
            started_sandbox(
                self._plan(isolation, host, sources, ids, store, bundle)._replace(cgroups=limits.folders),
                gateway._replace(agents=agents),
                host.runtime,
                self.interruption,
                self.trail,
            ) as started,
            limits.watching(started.sandbox),
        ):
            request = request._replace(isolation=limits.step, step_groups=limits.steps is not None)
            talk = Conversation(
                started.sandbox, self.interruption, self._checking(isolation), deadline=self.deadline, steps=limits.steps
            )
            try:
                return talk.run(reached_by(request, started))
            finally:
                if self.environ.get("SANDBOXBUILD_DEBUG"):
                    sys.stderr.buffer.write(bytes(talk.log))

    def _plan(
        self, isolation: Isolation, host: Host, sources: Sources, ids: idmap.IdPlan, store: Store, bundle: Bundle
    ) -> SandboxPlan:
        return SandboxPlan(
            self.build_id,
            sources,
            ids,
            bundle,
            store.path,
            "host" if has_host_network(isolation) else "none",
            store.scratch,
            connects_as_root=host.connects_as_root,
            tcp_host=tcp_host(self.settings, isolation),
        )

    def _checking(self, isolation: Isolation) -> Observer:
        """The observer, which also refuses a base that [sources] doesn't let the build have."""

        def observe(event: Event | None) -> None:
            self.observe(event)
            if isinstance(event, BaseResolved):
                check_base(isolation.sources, event)

        return observe

    @contextmanager
    def _audited(self) -> Iterator[None]:
        """A step's failure is told with what the gateway refused to it; the log is whole at the end, or that is the error."""
        try:
            yield
        except StepFailed as error:
            failed = self.record.of(BuildFailed)
            error.hint = refusal_hint(self.trail.refusals(str(failed[0].vertex))) or error.hint if failed else error.hint
            raise
        finally:
            self.trail.close()

    def _learn(self, isolation: Isolation) -> None:
        """Write the policy that allows what was asked for, if one is to be learned."""
        if self.settings.learn:
            from sandboxbuild.gateway.learn import learn

            write_file(self.settings.learn, learn(self.trail.records, isolation))

    def _named(self, sources: Sources) -> tuple[tuple[str, ...], tuple[NamedRun, ...] | None]:
        """What the gateway lets through and hands over: what the Dockerfile names. Raises DockerfileError before all starts.

        A Dockerfile that isn't here yet may name anything; a policy's [registries] and [sources] say otherwise.
        """
        from sandboxbuild.dockerfile import parse

        if sources.dockerfile is None:
            return (ANY_REPOSITORY,), None
        read = parse(sources.dockerfile, sources.dockerfile_name)
        return pulled_repositories(read, self.settings, this_platform()), handed_over(read, self.settings, this_platform())

    def _verified(self, store: Store, result: BuildSucceeded) -> Descriptor:
        """The image's descriptor; an image without a name is kept under its digest."""
        descriptor = verify_result(store, result, names=self.names, pushes=self.pushes, pushed=self.record.of(PushCompleted))
        for name in self.names or (descriptor.digest,):
            store.images.tag(name, descriptor)
        return descriptor


@contextmanager
def located(sources: Sources) -> Iterator[None]:
    """Errors at a place in the Dockerfile get that place's lines, for the excerpt under the error."""
    try:
        yield
    except (DockerfileError, StepFailed) as error:
        if error.span is not None and not error.source and sources.dockerfile is not None:
            lines = sources.dockerfile.decode("utf-8", "replace").split("\n")
            error.source = "\n".join(lines[error.span.line - 1 : max(error.span.line, error.span.end_line)])
        raise


def tcp_host(settings: BuildSettings, isolation: Isolation) -> str:
    """Where the gateway listens for --uplink=tcp. Raises PolicyError where the sandbox couldn't reach it."""
    if settings.uplink == "unix":
        return ""
    if not has_host_network(isolation):
        raise PolicyError(
            "--uplink=tcp leads out of the sandbox by the host's network, which the policy doesn't allow",
            hint="a --policy-file with [network] host_network = true allows it",
        )
    return "127.0.0.1"


def reached_by(request: BuildRequest, started: StartedSandbox) -> BuildRequest:
    """The request with the way to the gateway, where it isn't the socket."""
    return request._replace(uplink_host=started.tcp_host, uplink_port=started.tcp_port, uplink_token=started.token)


def has_host_network(isolation: Isolation) -> bool:
    """Whether some step may have the host's network, for which the executor has to have it as well."""
    return isolation.step.network == "host" or isolation.step.host_network


def host_resolver() -> bytes:
    """The host's /etc/resolv.conf, for steps on its network; b"" where there is none."""
    try:
        with open("/etc/resolv.conf", "rb") as stream:
            return stream.read(RESOLVER_LIMIT_BYTES)
    except OSError:
        return b""


def this_platform() -> str:
    system = os.uname()
    return str(host_platform(system.sysname, system.machine))
