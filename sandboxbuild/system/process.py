"""What a tree of processes uses: for hosts on which no cgroup can be had. The one importer of psutil, which reads /proc."""

from __future__ import annotations

from typing import NamedTuple


class Usage(NamedTuple):
    """`memory_bytes` that the processes hold, `tasks` are their threads."""

    memory_bytes: int
    tasks: int


def tree_usage(pid: int) -> Usage:
    """Of the process `pid` and all that descend from it; zeros when it is gone.

    Private pages are added up. Shared ones are in many processes at once, so only the largest share is counted.
    """
    import psutil

    try:
        top = psutil.Process(pid)
        processes = [top, *top.children(recursive=True)]
    except psutil.Error:
        return Usage(0, 0)
    private = shared = tasks = 0
    for process in processes:
        try:
            with process.oneshot():
                memory, threads = process.memory_info(), process.num_threads()
        except psutil.Error:
            continue  # ended meanwhile
        private += memory.rss - memory.shared
        shared = max(shared, memory.shared)
        tasks += threads
    return Usage(private + shared, tasks)


def tree_commands(pid: int) -> dict[int, str]:
    """The command lines of all that descends from the process `pid`, by the host's numbers; without its own."""
    import psutil

    found: dict[int, str] = {}
    try:
        descendants = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return found
    for process in descendants:
        try:
            found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue  # ended meanwhile, or nobody's to read
    return found
