"""StepWorkshop: an operation becomes a key, or a layer."""

from __future__ import annotations

import os
from typing import assert_never

from sandboxbuild.executor.channel import Vertex
from sandboxbuild.executor.copies import Copies
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.executor.layers import LayerRef, Layers, Rootfs
from sandboxbuild.executor.runs import Runs
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.executor.workdir import open_root, workdir_actions
from sandboxbuild.plan.keys import step_key
from sandboxbuild.plan.operations import CopyOp, Op, RunOp, WorkdirOp
from sandboxbuild.plan.steps import Stage, Step
from sandboxbuild.snapshotters import Snapshotter
from sandboxbuild.system.clock import wall_ns


class StepWorkshop:
    """Implements stages.Workshop. Thread-safe."""

    def __init__(
        self, *, platform: str, layers: Layers, snapshotter: Snapshotter, copies: Copies, runs: Runs, epoch_s: int | None
    ) -> None:
        self._platform = platform
        self._layers = layers
        self._snapshotter = snapshotter
        self._copies = copies
        self._runs = runs
        self._epoch_s = epoch_s

    def key(self, op: Op, rootfs: Rootfs, stage: Stage, vertex: Vertex) -> str:
        match op:
            case RunOp():
                content, policy = self._runs.content(op, vertex), self._runs.policy(op)
            case CopyOp():
                content, policy = self._copies.content(op, vertex), {}
            case WorkdirOp():
                content, policy = (), {}
            case _:
                assert_never(op)
        return step_key(rootfs.chain_id, op, platform=stage.platform or self._platform, content=content, policy=policy)

    def perform(self, op: Op, rootfs: Rootfs, step: Step, stage: Stage, vertex: Vertex) -> LayerRef:
        parents = self._layers.directories(rootfs, vertex)
        with self._layers.staging() as staging, self._snapshotter.workspace(parents, staging) as workspace:
            match op:
                case RunOp():
                    self._runs.perform(op, step, stage, workspace, vertex)
                case CopyOp():
                    self._copies.perform(op, workspace.root, vertex)
                case WorkdirOp():
                    self._make_workdir(op, workspace.root)
                case _:
                    assert_never(op)
            return self._layers.add(rootfs, workspace, staging, vertex)

    def _make_workdir(self, op: WorkdirOp, root: str) -> None:
        root_fd = open_root(root)
        try:
            with DirectoryTree(root_fd) as target:
                now_ns = wall_ns() if self._epoch_s is None else self._epoch_s * 1_000_000_000
                actions = workdir_actions(op, target, root_fd, now_ns=now_ns)
            apply_actions(root, actions, ())
        finally:
            os.close(root_fd)
