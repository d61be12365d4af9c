"""The pipe and the workers: order, bounds, errors, and that nothing stays behind."""

import threading

import pytest

from sandboxbuild.archive.threads import OrderedWorkers, Pipe, PipeClosed


def test_results_come_in_the_order_of_the_calls() -> None:
    first_may_end = threading.Event()
    with OrderedWorkers[int](2, "test") as workers:
        results = workers.put(lambda: (first_may_end.wait(), 1)[1])
        results += workers.put(lambda: (first_may_end.set(), 2)[1])
        results += workers.put(lambda: 3)
        results += workers.rest()
    assert results == [1, 2, 3]


def test_an_error_in_a_call_reaches_the_caller_and_the_threads_end() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), OrderedWorkers[float](2, "test") as workers:
        workers.put(lambda: 1 / 0)
        workers.rest()
    assert threading.active_count() == before


def test_calls_that_have_not_begun_are_dropped_on_the_way_out() -> None:
    with pytest.raises(KeyError), OrderedWorkers[None](1, "test") as workers:
        workers.put(lambda: None)
        raise KeyError
    assert threading.active_count() >= 1


def test_a_pipe_gives_what_was_written_and_then_its_end() -> None:
    pipe = Pipe(4)
    pipe.write(b"abc")
    pipe.write(b"def")
    pipe.end()
    assert [pipe.read(2), pipe.read(2), pipe.read(10), pipe.read(10)] == [b"ab", b"c", b"def", b""]


def test_a_pipe_hands_the_writers_error_on_after_its_data() -> None:
    pipe = Pipe(4)
    pipe.write(b"abc")
    pipe.end(KeyError("broken"))
    assert pipe.read(10) == b"abc"
    with pytest.raises(KeyError):
        pipe.read(10)


def test_a_full_pipe_waits_and_a_closed_one_lets_the_writer_go() -> None:
    pipe = Pipe(1)
    outcome: list[type[BaseException]] = []

    def write() -> None:
        try:
            while True:
                pipe.write(b"x")
        except PipeClosed as error:
            outcome.append(type(error))

    thread = threading.Thread(target=write)
    thread.start()
    assert pipe.read(1) == b"x"
    pipe.close()
    thread.join(5)
    assert outcome == [PipeClosed]
