"""Worker processes: start, watch, restart, stop.

The parent binds nothing and serves nothing: the caller has bound the sockets, each worker builds
its own listeners on them after the fork, so no database connection or event loop is ever shared.
With one worker there is no fork at all.

Signals: SIGTERM and SIGINT stop gracefully, a second one at once; SIGHUP reloads TLS files. A
worker whose parent is gone stops by itself: it sees the end of a pipe only the parent holds open.
"""

import asyncio
import faulthandler
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

from pkiserver.clock import monotonic
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.serving import descriptors, memory
from pkiserver.serving.connection import log
from pkiserver.serving.listeners import Listener
from pkiserver.serving.worker import Server, quiet_loop_errors

MakeListeners = Callable[[int], AbstractAsyncContextManager[Sequence[Listener]]]

READY = b"ready"
STEADY_SECONDS = 10.0
LONGEST_BACKOFF = 30.0
KILL_MARGIN = 5.0
_PARENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def run(
    make_listeners: MakeListeners,
    *,
    workers: int = 1,
    grace: float = 10.0,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Serve until a signal says stop; returns the exit status. To be called in the main thread.

    `make_listeners(worker_index)` is entered in each worker's event loop and left after its last
    request. `on_ready` is called once, when every worker accepts connections. PKIError or the
    factory's own exception if serving cannot begin; a worker that dies later is started again.
    """
    ready = on_ready or (lambda: None)
    descriptors.raise_limit()
    if workers == 1:
        return _run_loop(make_listeners, 0, grace, ready, lifeline=None)
    return _Parent(make_listeners, workers, grace, ready).run()


def backoff(failures: int) -> float:
    """Seconds before a worker is started again that died `failures` times soon after its start."""
    return float(min(LONGEST_BACKOFF, 0.2 * 2 ** min(failures, 10)))


def _run_loop(
    make_listeners: MakeListeners,
    index: int,
    grace: float,
    ready: Callable[[], None],
    lifeline: int | None,
) -> int:
    """Serve in this process: 0 after a graceful stop, 1 after a hurried one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.get_loop().set_exception_handler(quiet_loop_errors)
        try:
            runner.run(_serve(make_listeners, index, grace, ready, lifeline))
        except asyncio.CancelledError:
            return 1
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop takes a third off the CPU time of a request; asyncio's own loop will do."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    make_listeners: MakeListeners,
    index: int,
    grace: float,
    ready: Callable[[], None],
    lifeline: int | None,
) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop, ignore_interrupt=lifeline is not None)
    if lifeline is not None:
        asyncio.get_running_loop().add_reader(lifeline, stop.set)
    async with make_listeners(index) as listeners:
        server = Server(descriptors.bounded(listeners))
        try:
            await server.start()
            memory.settle()
            _reload_on_hangup(server)
            ready()
            await stop.wait()
        finally:
            if lifeline is not None:
                _tell_if_late(grace + KILL_MARGIN - 1)
            await server.stop(grace)


def _tell_if_late(seconds: float) -> None:
    """What a worker is doing that does not stop in time, before it is killed: its tasks if its loop
    still runs, and where its threads are if not."""
    loop = asyncio.get_running_loop()
    loop.call_later(seconds, _tell_tasks, loop)
    faulthandler.dump_traceback_later(seconds + 0.5)


def _tell_tasks(loop: asyncio.AbstractEventLoop) -> None:
    left = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks(loop)]
    log.error("the worker does not stop", waits_for=left)


def _stop_on_signals(stop: asyncio.Event, *, ignore_interrupt: bool) -> None:
    """The first signal stops gracefully, the second cancels what is still running."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    # Control-C reaches the whole process group: workers leave the decision to the parent.
    loop.add_signal_handler(signal.SIGINT, (lambda: None) if ignore_interrupt else on_signal)


def _reload_on_hangup(server: Server) -> None:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = loop.create_task(server.reload())
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)


@dataclass(slots=True)
class _Worker:
    """One slot of the parent's table; the process in it may change."""

    index: int
    pid: int = 0
    pipe: int = -1
    report: bytearray = field(default_factory=bytearray)
    ready: bool = False
    started: float = 0.0
    failures: int = 0
    restart_at: float | None = None


class _Parent:
    """Forks the workers and keeps them running; only ever waits for signals and pipes."""

    def __init__(
        self, make_listeners: MakeListeners, workers: int, grace: float, ready: Callable[[], None]
    ) -> None:
        self._make_listeners = make_listeners
        self._grace = grace
        self._on_ready = ready
        self._workers = [_Worker(index) for index in range(workers)]
        self._all_ready = False
        self._stopping = False
        self._kill_at: float | None = None
        self._hurried = False
        self._failure: PKIError | None = None

    def run(self) -> int:
        self._selector = selectors.DefaultSelector()
        self._lifeline = os.pipe()
        self._wake, wake_end = socket.socketpair()
        self._wake.setblocking(False)
        wake_end.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        old_handlers = {number: signal.signal(number, _noted) for number in _PARENT_SIGNALS}
        old_wakeup = signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        try:
            return self._supervise()
        finally:
            self._kill_all()
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in old_handlers.items():
                signal.signal(number, handler)
            self._selector.close()
            self._wake.close()
            wake_end.close()
            os.close(self._lifeline[0])
            os.close(self._lifeline[1])

    def _supervise(self) -> int:
        for worker in self._workers:
            self._start(worker)
        while not (self._stopping and not any(worker.pid for worker in self._workers)):
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._take_signals()
                else:
                    self._take_report(key.data)
            self._reap()
            self._keep_time()
        if self._failure is not None:
            raise self._failure
        return int(self._hurried)

    def _patience(self) -> float | None:
        """Seconds until something is due."""
        due = [worker.restart_at for worker in self._workers if worker.restart_at is not None]
        if self._kill_at is not None:
            due.append(self._kill_at)
        return max(0.0, min(due) - monotonic()) if due else None

    def _start(self, worker: _Worker) -> None:
        read_end, write_end = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal before the child's own handlers would be noted as if sent to the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            self._become_worker(worker.index, write_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENT_SIGNALS)
        os.close(write_end)
        os.set_blocking(read_end, False)
        worker.pid, worker.pipe, worker.ready = pid, read_end, False
        worker.report = bytearray()
        worker.started, worker.restart_at = monotonic(), None
        self._selector.register(read_end, selectors.EVENT_READ, worker)

    def _become_worker(self, index: int, pipe: int) -> NoReturn:
        """The child's whole life. It leaves by `_exit`: the stack below belongs to the parent."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _PARENT_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENT_SIGNALS)
            self._selector.close()
            self._wake.close()
            os.close(self._lifeline[1])
            for other in self._workers:
                if other.pipe >= 0:
                    os.close(other.pipe)
            code = _work(self._make_listeners, index, self._grace, pipe, self._lifeline[0])
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _take_signals(self) -> None:
        for number in self._wake.recv(256):
            if number in (signal.SIGTERM, signal.SIGINT):
                if self._stopping:
                    self._hurried = True
                    self._kill_all()
                self._stop()
            elif number == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)

    def _take_report(self, worker: _Worker) -> None:
        data = os.read(worker.pipe, 65536)
        worker.report += data
        if not data:
            self._close_pipe(worker)
        elif bytes(worker.report) == READY:
            worker.ready = True
            if not self._all_ready and all(each.ready for each in self._workers):
                self._all_ready = True
                self._on_ready()

    def _close_pipe(self, worker: _Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    def _reap(self) -> None:
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    worker.pid = 0
                    self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, code: int) -> None:
        while worker.pipe >= 0:  # its end is at hand: the writer is dead
            self._take_report(worker)
        if self._stopping:
            return
        if not self._all_ready:
            self._failure = _start_failure(worker, code)
            self._stop()
            return
        lived = monotonic() - worker.started
        worker.failures = 0 if lived >= STEADY_SECONDS else worker.failures + 1
        delay = backoff(worker.failures)
        worker.restart_at = monotonic() + delay
        log.error("worker died", worker=worker.index, code=code, lived=round(lived), delay=delay)

    def _keep_time(self) -> None:
        now = monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            log.error("workers did not stop in time and are killed")
            self._hurried = True
            self._kill_all()
            self._kill_at = None
        for worker in self._workers:
            if worker.restart_at is not None and now >= worker.restart_at and not self._stopping:
                self._start(worker)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._kill_at = monotonic() + self._grace + KILL_MARGIN
            for worker in self._workers:
                worker.restart_at = None
            self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)

    def _kill_all(self) -> None:
        self._signal_all(signal.SIGKILL)


def _noted(number: int, frame: object) -> None:
    """The wakeup file descriptor has the number; without a handler it would not."""


def _work(make_listeners: MakeListeners, index: int, grace: float, pipe: int, lifeline: int) -> int:
    """A worker's run; what kept it from starting goes to the parent through `pipe`."""
    try:
        return _run_loop(make_listeners, index, grace, lambda: _report(pipe, READY), lifeline)
    except PKIError as error:
        _report(pipe, json.dumps([error.code, error.detail]).encode("ascii"))
    except Exception:
        log.exception("worker failed", worker=index)
    return 1


def _report(pipe: int, data: bytes) -> None:
    with suppress(BrokenPipeError):  # the parent is gone, and the lifeline says so too
        os.write(pipe, data)


def _start_failure(worker: _Worker, code: int) -> PKIError:
    """Why a worker never got ready, in its own words if it left any."""
    try:
        error_code, detail = json.loads(bytes(worker.report).removeprefix(READY))
        return PKIError(ErrorCode(error_code), detail)
    except (ValueError, TypeError):
        how = f"signal {-code}" if code < 0 else f"status {code}"
        return PKIError(
            ErrorCode.INTERNAL, f"worker {worker.index} ended with {how} before it was ready"
        )
