"""The use case: a request becomes a plan, the plan's stages run, their result becomes an image that is stored and pushed."""

from __future__ import annotations

import os
import time

from sandboxbuild.dockerfile import LowerOptions, lower, parse
from sandboxbuild.errors import IsolationError
from sandboxbuild.executor.bases import Bases
from sandboxbuild.executor.cachemounts import CacheMounts
from sandboxbuild.executor.channel import EventChannel
from sandboxbuild.executor.contexts import Contexts
from sandboxbuild.executor.copies import Copies
from sandboxbuild.executor.image import assemble_stage, rfc3339
from sandboxbuild.executor.layers import LayerRef, Layers
from sandboxbuild.executor.mounts import RunMounts
from sandboxbuild.executor.places import place_layers
from sandboxbuild.executor.platforms import check_runnable
from sandboxbuild.executor.publish import Publisher
from sandboxbuild.executor.remote import RemoteFiles
from sandboxbuild.executor.results import StageResult, StageResults
from sandboxbuild.executor.run import StepRunner
from sandboxbuild.executor.runs import Runs
from sandboxbuild.executor.sources import Sources, main_rules
from sandboxbuild.executor.stages import Stages
from sandboxbuild.executor.stepgroups import AskedGroups
from sandboxbuild.executor.workshop import StepWorkshop
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.mutate import Assembled, assemble_index
from sandboxbuild.plan.steps import BaseStage, BuildPlan
from sandboxbuild.protocol.events import BuildSucceeded, PlanReady
from sandboxbuild.protocol.request import STORE_PATH, UPLINK_PATH, BuildRequest
from sandboxbuild.registry.push import Document
from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport
from sandboxbuild.snapshotters import Snapshotter
from sandboxbuild.store import Store


def build(request: BuildRequest, runner: StepRunner, channel: EventChannel, groups: AskedGroups | None) -> BuildSucceeded:
    """Build all platforms, push, and tag in the store; `groups` are the steps' own. Raises SandboxbuildError."""
    store = Store(STORE_PATH, create=False, build_id=request.build_id)
    place_layers(store)
    uplink = Uplink(uplink_address(request), request.gateway_patience_s)
    publisher = Publisher(store, UplinkTransport(uplink), channel, request.pushes)
    try:
        platforms = request.platforms or (request.build_platform,)
        with store.layers.staging() as scratch:
            contexts = Contexts(request, uplink, channel, folder=store.scratch, scratch=scratch)
            remote = RemoteFiles(uplink, scratch)
            builds = [
                PlatformBuild(request, name, store, scratch, uplink, runner, channel, publisher, contexts, remote, groups)
                for name in platforms
            ]
            plans = [each.plan() for each in builds]
            images = [each.run(plan) for each, plan in zip(builds, plans, strict=True)]
        return _publish(request, images, store, publisher)
    except BaseException:
        publisher.abort()
        raise


def _publish(request: BuildRequest, images: list[Assembled], store: Store, publisher: Publisher) -> BuildSucceeded:
    """Give the names to the image, or to an index of several, here and in the registries."""
    documents = [Document(image.manifest_descriptor.media_type, image.manifest) for image in images]
    described, root, children = images[0].manifest_descriptor, documents[0], documents[:0]
    if len(images) > 1:
        content, described = assemble_index(tuple(image.manifest_descriptor for image in images), request.image_format)
        store.blobs.put_bytes(content)
        root, children = Document(described.media_type, content), documents
    publisher.finish(root, [image.config_descriptor for image in images], children)
    described = Descriptor(described.media_type, described.digest, described.size_bytes)
    for name in request.names or (described.digest,):
        store.images.tag(name, described)
    config = images[0].config_descriptor.digest
    return BuildSucceeded(described.media_type, described.digest, described.size_bytes, config, request.names)


class PlatformBuild:
    """The build for one platform."""

    def __init__(
        self,
        request: BuildRequest,
        platform: str,
        store: Store,
        scratch: str,
        uplink: Uplink,
        runner: StepRunner,
        channel: EventChannel,
        publisher: Publisher,
        contexts: Contexts,
        remote: RemoteFiles,
        groups: AskedGroups | None,
    ) -> None:
        self._groups = groups
        self._request = request
        self._platform = platform
        self._store = store
        self._scratch = scratch
        self._uplink = uplink
        self._runner = runner
        self._channel = channel
        self._publisher = publisher
        self._contexts = contexts
        self._remote = remote
        self._cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._bases = Bases(store, UplinkTransport(uplink), channel, platform=platform, fresh=request.pull)

    def plan(self) -> BuildPlan:
        """What is to be done. Raises InputError; RegistryError for a base image that can't be had."""
        request = self._request
        parsed = parse(self._contexts.dockerfile().text, request.dockerfile_path)
        options = lower_options(request, self._platform)
        if request.context == "local":
            options = options._replace(ignore=main_rules(self._contexts))
        plan = lower(parsed, options, lambda base: self._bases.resolve(base).config)
        check_runnable(plan, request.build_platform, request.emulated)
        for span, message in plan.warnings:
            self._channel.warn(message, span)
        steps = sum(step.op is not None for stage in plan.stages for step in stage.steps)
        self._channel.emit(PlanReady(len(plan.stages), steps))
        return plan

    def run(self, plan: BuildPlan) -> Assembled:
        """Build the target stage and put its documents and all its blobs into the store."""
        epoch_s = plan.source_date_epoch
        layers = Layers(self._store, self._bases, compression=self._request.compression, epoch_s=epoch_s)
        results = self._run_stages(plan, layers)
        return self._assemble(results.get(plan.target), layers, epoch_s)

    def _run_stages(self, plan: BuildPlan, layers: Layers) -> StageResults:
        results = StageResults([stage.number for stage in plan.stages])
        snapshotter = choose_snapshotter(self._request.snapshotter, self._scratch)
        stages = self._stages(plan, layers, results, snapshotter)
        results.run_all(lambda number: stages.run(plan.stage(number)), lambda: os.eventfd_write(self._cancel_fd, 1))
        return results

    def _stages(self, plan: BuildPlan, layers: Layers, results: StageResults, snapshotter: Snapshotter) -> Stages:
        request = self._request
        sources = Sources(
            self._contexts,
            layers=layers,
            bases=self._bases,
            results=results,
            snapshotter=snapshotter,
            scratch=self._scratch,
        )
        copies = Copies(sources, self._remote, self._store, plan.source_date_epoch)
        caches = CacheMounts(os.path.join(STORE_PATH, "mounts"))
        mounts = RunMounts(request, sources, copies, caches, self._uplink, self._scratch)
        runs = Runs(request, mounts, self._runner, self._uplink, self._cancel_fd, self._groups)
        workshop = StepWorkshop(
            platform=self._platform,
            layers=layers,
            snapshotter=snapshotter,
            copies=copies,
            runs=runs,
            epoch_s=plan.source_date_epoch,
        )
        pushed = lineage(plan)
        return Stages(
            store=self._store,
            bases=self._bases,
            results=results,
            workshop=workshop,
            channel=self._channel,
            jobs=request.jobs,
            use_cache=not request.no_cache,
            epoch_s=plan.source_date_epoch,
            on_layer=lambda number, layer: self._push_early(layer) if number in pushed else None,
        )

    def _push_early(self, layer: LayerRef) -> None:
        self._publisher.layer(layer)

    def _assemble(self, result: StageResult, layers: Layers, epoch_s: int | None) -> Assembled:
        request = self._request
        with self._channel.vertex("export", "export the image") as vertex:
            layers.require_blobs(result.rootfs.layers, vertex)
            assembled = assemble_stage(
                result,
                image_format=request.image_format,
                annotations=request.annotations,
                created=rfc3339(int(time.time()) if epoch_s is None else epoch_s),
            )
            self._store.blobs.put_bytes(assembled.config)
            self._store.blobs.put_bytes(assembled.manifest)
        for layer in result.rootfs.layers:
            self._publisher.layer(layer)
        return assembled


def uplink_address(request: BuildRequest) -> UplinkAddress:
    """Where the gateway is: its socket, or where the request says."""
    if request.uplink_host:
        return UplinkAddress(host=request.uplink_host, port=request.uplink_port, token=request.uplink_token)
    return UplinkAddress(UPLINK_PATH)


def lower_options(request: BuildRequest, platform: str) -> LowerOptions:
    """What the Dockerfile is read with. Without --platform images keep their own platform."""
    return LowerOptions(
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        platform=platform if request.platforms else "",
        build_platform=request.build_platform,
        source_date_epoch=request.source_date_epoch,
        named_contexts=request.named_contexts,
    )


def choose_snapshotter(name: str, scratch: str) -> Snapshotter:
    """The one that was asked for; "auto" is overlay where one can be mounted, else walk. Raises IsolationError."""
    from sandboxbuild.snapshotters.overlay import OverlaySnapshotter
    from sandboxbuild.snapshotters.walk import WalkSnapshotter

    if name == "walk":
        return WalkSnapshotter()
    overlay = OverlaySnapshotter()
    try:
        with overlay.workspace((), scratch):
            return overlay
    except OSError as error:
        if name == "overlay":
            raise IsolationError(
                f"overlay can't be mounted in the sandbox: {error.strerror}", hint="--snapshotter walk needs no mount"
            ) from error
        return WalkSnapshotter()


def lineage(plan: BuildPlan) -> frozenset[int]:
    """The stages whose layers become layers of the result: the target and what it is FROM."""
    found = {plan.target}
    base = plan.stage(plan.target).base
    while isinstance(base, BaseStage):
        found.add(base.stage)
        base = plan.stage(base.stage).base
    return frozenset(found)
