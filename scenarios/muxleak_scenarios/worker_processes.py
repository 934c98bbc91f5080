"""Calls functions in several processes at once, and gives their results in order.

A child process runs this module as a program.
"""

# Protocol. A child reads calls from its standard input, one a line, and answers each on its
# standard output: a line for each text of progress, and a line with the result. A line is a pickle
# in Base64. A call that raises ends its child, whose traceback is on stderr.
#
# The children are not of `concurrent.futures`: those of its process pool outlive a parent that ends
# by `os._exit`, as Ctrl-C makes this program end, and the tracker of their semaphores then prints
# warnings. As in `bench.row_process`, a child sees its parent's end as the end of its standard
# input, which a thread waits for, also in the middle of a call; and Ctrl-C does not reach it, since
# it is in a session of its own.
#
# Where no process can be started, or one is wanted only, the calls are made here, one after the
# other, each when its result is asked for.

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from muxleak_scenarios import child_process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    Say = Callable[[str], object]


class Job(NamedTuple):
    """A call.

    Attributes:
        call: can be pickled, as can its result.
        text: of the progress, given before the call; None if the call takes a function `progress`
            that is given its texts.
    """

    call: Callable[..., Any]
    text: str | None = None

    def run(self, say: Say) -> Any:
        """Make the call.

        Args:
            say: is called with the texts of its progress.
        """
        if self.text is None:
            return self.call(progress=say)
        say(self.text)
        return self.call()


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(jobs: Iterable[Job], processes: int, say: Say) -> Generator[Any, None, None]:
    """Make calls in several processes, and yield their results in the order of the calls.

    Args:
        jobs: the calls.
        processes: the most that are started; with one, the calls are made in this process.
        say: is called with the texts of progress, from any thread.

    Yields:
        The result of each call. Closing the iterator ends the processes.

    Raises:
        RuntimeError: a call raised in another process; its traceback is on stderr.
    """
    jobs = list(jobs)
    workers = _start(min(processes, len(jobs))) if processes > 1 else []
    if not workers:
        for job in jobs:
            yield job.run(say)
        return
    idle: SimpleQueue[_Worker] = SimpleQueue()

    def run(job: Job) -> Any:
        worker = idle.get()
        try:
            return worker.run(job, say)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(workers)))
        for worker in workers:
            idle.put(worker)
            # Before the threads are waited for, which the end of their workers sets free.
            stack.callback(worker.end)
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        for result in [threads.submit(run, job) for job in jobs]:
            yield result.result()


class _Worker:
    """A child process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            child_process.module("muxleak_scenarios.worker_processes"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, job: Job, say: Say) -> Any:
        """Make a call in the process.

        Raises:
            RuntimeError: the process has ended.
        """
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise AssertionError("both are pipes")
        try:
            requests.write(_line(job))
            requests.flush()
        except OSError:
            raise RuntimeError("a process that made calls has ended") from None
        for line in answers:
            is_result, value = _value(line)
            if is_result:
                return value
            say(value)
        raise RuntimeError(f"a call failed in another process: {job.call}")

    def end(self) -> None:
        """End the process at once, and wait for its end."""
        self._process.kill()
        with self._process:
            pass


def _start(number: int) -> list[_Worker]:
    """Start as many processes; return none if one cannot be started."""
    with ExitStack() as started:
        workers = []
        for _ in range(number):
            try:
                worker = _Worker()
            except OSError:
                return []
            started.callback(worker.end)
            workers.append(worker)
        started.pop_all()
    return workers


def _line(value: object) -> bytes:
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def _value(line: bytes) -> Any:
    return pickle.loads(base64.b64decode(line))  # noqa: S301 - of our own process


def main() -> None:
    """Run as a child process."""
    jobs: SimpleQueue[Job] = SimpleQueue()
    # A program under test may print; nothing but the protocol may come out here.
    answers, sys.stdout = sys.stdout.buffer, sys.stderr

    def answer(*, is_result: bool, value: object) -> None:
        try:
            answers.write(_line((is_result, value)))
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # the parent has ended, and a traceback would stand on its terminal

    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()
    while True:
        result = jobs.get().run(lambda text: answer(is_result=False, value=text))
        answer(is_result=True, value=result)


def _receive(jobs: SimpleQueue[Job]) -> None:
    # Not `sys.stdin`, which holds a lock that an interpreter needs when it ends.
    with open(0, "rb", buffering=0, closefd=False) as requests:
        for line in requests:
            jobs.put(_value(line))
    # The parent has ended.
    os._exit(1)


if __name__ == "__main__":
    main()
