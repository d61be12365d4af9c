"""One stage from its base to its last step: what is cached is taken, what isn't is done, and the history is written down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from sandboxbuild.errors import DockerfileError, InputError, StepFailed
from sandboxbuild.executor.bases import Bases
from sandboxbuild.executor.channel import EventChannel, Vertex
from sandboxbuild.executor.image import StepHistory, rfc3339
from sandboxbuild.executor.layers import LayerRef, Rootfs
from sandboxbuild.executor.results import StageResult, StageResults
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.plan.operations import Op
from sandboxbuild.plan.steps import Base, BaseImage, BaseStage, Stage, Step
from sandboxbuild.protocol.events import StepTimed
from sandboxbuild.store import Store
from sandboxbuild.store.cache import StepRecord


class Workshop(Protocol):
    """Does what an operation says. Thread-safe: stages call it side by side."""

    def key(self, op: Op, rootfs: Rootfs, stage: Stage, vertex: Vertex) -> str:
        """The cache key of `op` on `rootfs`; reads what the operation takes, writes nothing."""

    def perform(self, op: Op, rootfs: Rootfs, step: Step, stage: Stage, vertex: Vertex) -> LayerRef:
        """Carry the operation out and put its layer into the store."""


class Stages:
    """Runs the stages of one plan. `on_layer` hears of each layer as soon as its blob is in the store."""

    def __init__(
        self,
        *,
        store: Store,
        bases: Bases,
        results: StageResults,
        workshop: Workshop,
        channel: EventChannel,
        jobs: int,
        use_cache: bool,
        epoch_s: int | None,
        on_layer: Callable[[int, LayerRef], None],
    ) -> None:
        self._store = store
        self._bases = bases
        self._results = results
        self._workshop = workshop
        self._channel = channel
        self._slots = threading.BoundedSemaphore(max(1, jobs))
        self._use_cache = use_cache
        self._epoch_s = epoch_s
        self._on_layer = on_layer

    def run(self, stage: Stage) -> StageResult:
        below = self._below(stage.base, stage)
        rootfs, history = below.rootfs, StepHistory(below.history)
        created = below.created
        total = sum(step.op is not None for step in stage.steps)
        number = 0
        for step in stage.steps:
            if step.op is None:
                if step.has_history:
                    history.metadata(step.created_by)
                continue
            number += 1
            layer, created = self._step(stage, step, step.op, rootfs, number, total)
            rootfs = rootfs.plus(layer)
            history.layer(step.created_by, created)
        return StageResult(rootfs, stage.config, tuple(history.entries), created)

    def _below(self, base: Base, stage: Stage) -> StageResult:
        """The filesystem and history that a stage starts from."""
        if isinstance(base, BaseStage):
            return self._results.get(base.stage)
        if isinstance(base, BaseImage):
            found = self._bases.resolve(base)
            return StageResult(found.rootfs, found.config, found.config.history, found.config.created)
        return StageResult(Rootfs(), stage.base_config, (), "")

    def _step(self, stage: Stage, step: Step, op: Op, rootfs: Rootfs, number: int, total: int) -> tuple[LayerRef, str]:
        for needed in step.depends_on:
            self._results.get(needed)
        label = stage.name or f"stage-{stage.number}"
        with self._slots, self._channel.vertex("step", step.text, stage=label, number=number, total=total) as vertex:
            started = time.monotonic_ns()
            key = self._workshop.key(op, rootfs, stage, vertex)
            status = 0
            try:
                record = self._known(key, rootfs)
                vertex.cached = record is not None
                record = record or self._perform(stage, step, op, rootfs, key, vertex)
            except StepFailed as error:
                status = error.status
                raise
            except InputError as error:
                raise located(error, step) from error
            finally:
                duration = time.monotonic_ns() - started
                self._channel.emit(StepTimed(vertex.number, step.text, vertex.cached, status, duration))
            assert record.layer is not None, "_known and _perform see to it"
            layer = LayerRef(record.layer, record.diff_id)
            self._on_layer(stage.number, layer)
            return layer, record.created

    def _known(self, key: str, rootfs: Rootfs) -> StepRecord | None:
        """The record of a step that ran before, if the store still has its layer."""
        record = self._store.cache.get(key) if self._use_cache else None
        if record is None or record.layer is None or not self._store.blobs.has(record.layer.digest):
            return None
        layer = LayerRef(record.layer, record.diff_id)
        return record if rootfs.plus(layer).chain_id == record.chain_id else None

    def _perform(self, stage: Stage, step: Step, op: Op, rootfs: Rootfs, key: str, vertex: Vertex) -> StepRecord:
        layer = self._workshop.perform(op, rootfs, step, stage, vertex)
        created = rfc3339(self._epoch_s if self._epoch_s is not None else int(time.time()))
        described = Descriptor(layer.descriptor.media_type, layer.descriptor.digest, layer.descriptor.size_bytes)
        record = StepRecord(described, layer.diff_id, rootfs.plus(layer).chain_id, created)
        self._store.cache.put(key, record)
        return record


def located(error: InputError, step: Step) -> DockerfileError:
    """The same complaint, with the instruction that it is about."""
    if isinstance(error, DockerfileError) and error.span is not None:
        return error
    return DockerfileError(error.message, span=step.span, hint=error.hint)
