"""From a finished stage to an image: pure, so that equal inputs give equal bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sandboxbuild.executor.results import StageResult
from sandboxbuild.oci.config import History
from sandboxbuild.oci.digest import chain_ids
from sandboxbuild.oci.image import Image, Layer
from sandboxbuild.oci.mutate import Assembled, assemble

HISTORY_COMMENT = "buildkit.dockerfile.v0"


def rfc3339(seconds: int) -> str:
    """A time of the history and of `created`: UTC, whole seconds (image-spec config.md, created)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class StepHistory:
    """The history of one image as its steps end. A step without a layer takes the time of the last one, as BuildKit does."""

    def __init__(self, base: Sequence[History]) -> None:
        self.entries = list(base)
        self._last_created = next((entry.created for entry in reversed(self.entries) if entry.created), "")

    def layer(self, created_by: str, created: str) -> None:
        self._last_created = created
        self.entries.append(History(created_by=created_by, created=created, comment=HISTORY_COMMENT))

    def metadata(self, created_by: str) -> None:
        self.entries.append(
            History(created_by=created_by, created=self._last_created, comment=HISTORY_COMMENT, empty_layer=True)
        )


def assemble_stage(
    result: StageResult, *, image_format: str, annotations: tuple[tuple[str, str], ...], created: str
) -> Assembled:
    """The documents of a finished stage; `created` counts where no layer has a time."""
    layers = result.rootfs.layers
    config = result.config._replace(
        created=result.created or created,
        diff_ids=tuple(layer.diff_id for layer in layers),
        history=result.history,
    )
    chain = chain_ids(config.diff_ids)
    view = tuple(Layer(layer.descriptor, layer.diff_id, chain_id) for layer, chain_id in zip(layers, chain, strict=True))
    return assemble(Image(config, view, annotations), image_format)
