"""One layer of the store as a tar that is being read: verified against its digest and its diff_id, and closed in any case."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from sandboxbuild.archive.member import ArchiveLimits
from sandboxbuild.archive.reader import TarReader
from sandboxbuild.archive.streams import PlainStream, VerifiedBlob
from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.image import Layer
from sandboxbuild.store import Store


class LayerStream:
    """A context manager. What `reader` gave is right once verify() has returned, and only then. Raises IntegrityError."""

    def __init__(self, store: Store, layer: Layer, limits: ArchiveLimits) -> None:
        self._layer = layer
        with ExitStack() as stack:
            source = stack.enter_context(store.blobs.open(layer.descriptor.digest))
            self._blob = VerifiedBlob(source, layer.descriptor, None)
            stack.callback(self._blob.close)
            self._plain = PlainStream(self._blob, limits)
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        self.reader = TarReader(self._plain, limits, error=IntegrityError)

    def verify(self) -> None:
        """Read to the end, and check all of it."""
        self.reader.drain()
        diff_id, _ = self._plain.result()
        if diff_id != self._layer.diff_id:
            raise IntegrityError(
                f"the layer {self._layer.descriptor.digest} unpacks to {diff_id}, but the image says {self._layer.diff_id}"
            )

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._stack.close()

    def __enter__(self) -> LayerStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _stop(self) -> None:
        self._plain.close()
        self._blob.close()
        self._plain.join()
