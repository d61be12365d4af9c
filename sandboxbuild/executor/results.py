"""What finished stages came to, and the waiting for them: each stage has a thread, and asks here for those it builds on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sandboxbuild.executor.layers import Rootfs
from sandboxbuild.oci.config import History, ImageConfig


class StageResult(NamedTuple):
    """A finished stage. `created` is the time of its last layer, RFC 3339, "" where there is none."""

    rootfs: Rootfs
    config: ImageConfig
    history: tuple[History, ...]
    created: str


class _StageAbandoned(Exception):
    """Another stage failed; this one has nothing to say."""


class StageResults:
    """One slot for each stage. Stages build only on earlier ones, so that waiting can't go in a circle."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._done = {number: threading.Event() for number in numbers}
        self._results: dict[int, StageResult] = {}
        self._first_error: BaseException | None = None
        self._lock = threading.Lock()

    def get(self, number: int) -> StageResult:
        """The result of a stage; waits for it. Raises when any stage has failed."""
        self._done[number].wait()
        if number not in self._results:
            raise _StageAbandoned
        return self._results[number]

    @property
    def failed(self) -> bool:
        return self._first_error is not None

    def run_all(self, run: Callable[[int], StageResult], on_failure: Callable[[], None]) -> None:
        """Run each stage on its own thread; `on_failure` is called once, at the first error, which is raised in the end."""
        threads = [
            threading.Thread(target=self._run_one, args=(number, run, on_failure), name=f"stage-{number}", daemon=True)
            for number in self._done
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._first_error is not None:
            raise self._first_error

    def _run_one(self, number: int, run: Callable[[int], StageResult], on_failure: Callable[[], None]) -> None:
        try:
            self._results[number] = run(number)
            self._done[number].set()
        except BaseException as error:  # carried to the build's thread by run_all
            self._fail(error, on_failure)

    def _fail(self, error: BaseException, on_failure: Callable[[], None]) -> None:
        with self._lock:
            first = self._first_error is None and not isinstance(error, _StageAbandoned)
            if first:
                self._first_error = error
        if first:
            on_failure()
        for event in self._done.values():
            event.set()
