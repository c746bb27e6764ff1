"""The parent of ``headrace run``: starts workers, restarts what crashed, passes signals on, and ends with their code.

It imports no user code, no library and hardly anything of Python's own, and runs no event loop: nothing of an app can take
it down, and beside a worker it weighs nothing. Even the command line is read by the workers. A worker is a fork with a
pipe each way: it reports how it ends (an exit that it did not report was a crash), and it dies when its supervisor does,
for two owners of one lane would be worse than none. Only crashes are restarted: a reported exit is the supervisor's own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # type checkers know the name; to import it from typing would cost more than all of this module

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Place", "supervise"]

#: Seconds before a crashed worker is started again: the first time, at most, and after how long a life it is the first again.
FIRST_RESTART, LAST_RESTART, STEADY = 0.1, 5.0, 60.0
#: Seconds that workers have for their drain after one of them ended for good.
LAST_DRAIN = 40.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Place:
    """What a process under the supervisor knows of it. Each of them reads the command line, and learns there what to do.

    Attributes:
        number: 0 for the first worker; the admin process of several comes after the last one.
        addresses: ``admin`` and ``http`` as an earlier worker got them.
        lifeline: a pipe that is closed when the supervisor is gone.
        of: how many workers there are, and folder: where the sockets of several are; as the first worker reported them.
        task: what to do once the command line is read; ``None`` where that was all.
    """

    __slots__ = ("_status", "addresses", "folder", "lifeline", "number", "of", "task")

    def __init__(
        self, number: int, of: int, folder: str, addresses: dict[str, str], lifeline: int, status: int
    ) -> None:
        self.number = number
        self.of = of
        self.folder = folder
        self.addresses = addresses
        self.lifeline = lifeline
        self.task: Callable[[], int] | None = None
        self._status = status

    @property
    def admin(self) -> bool:
        """This is the process that answers on the admin port for several workers."""
        return self.number == self.of

    def socket(self, number: int) -> str:
        """A worker's own admin endpoint, where several share one port."""
        return f"{self.folder}/{number}.sock"

    def report(self, fact: str, *words: str) -> None:
        """Tell the supervisor: ``workers NUMBER FOLDER``, ``listening NAME ADDRESS``, ``ready``, ``exit CODE``."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._status, "\0".join((fact, *words)).encode() + b"\n")


class _Child:
    """A place for a process: the one that is in it now, and what is known of those before."""

    __slots__ = ("crashes", "due", "exit", "lifeline", "number", "pid", "started", "status", "unread")

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.status = -1
        self.lifeline = -1
        self.started = 0.0
        self.crashes = 0
        self.due: float | None = None
        self.unread = b""
        self.exit: int | None = None


def supervise(work: Callable[[Place], int]) -> int:
    """Run ``work``, which reads the command line, in as many processes as the first of them reports, and in one more to
    answer for all where there are several; the exit code."""
    supervisor = _Supervisor(work)
    try:
        return supervisor.run()
    finally:
        supervisor.tidy()


class _Supervisor:
    def __init__(self, work: Callable[[Place], int]) -> None:
        self._work = work
        self._children = [_Child(0)]
        self._of = 1
        self._folder = ""
        self._addresses: dict[str, str] = {}
        self._code: int | None = None
        self._asked = 0
        self._deadline = float("inf")
        self._wakeup = -1

    def run(self) -> int:
        self._wakeup, written = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # The first worker is first: what it is told (how many there are), gets (ports) and finds wrong (configuration)
        # holds for all.
        self._start(self._children[0])
        while any(child.pid or child.due is not None for child in self._children):
            self._wait()
        return self._code or 0

    def tidy(self) -> None:
        """Remove the folder of the sockets."""
        if self._folder:
            import shutil

            shutil.rmtree(self._folder, ignore_errors=True)

    # Signals

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        self._end(130 if number == signal.SIGINT else 0)
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for child in self._children:
            if child.pid and not self._is_admin(child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    def _end(self, code: int) -> None:
        """Start nothing more; ``code`` unless something worse comes."""
        if self._code is None:
            self._code = code
        for child in self._children:
            child.due = None

    # Children

    def _is_admin(self, child: _Child) -> bool:
        return child.number == self._of

    def _name(self, child: _Child) -> str:
        if self._of == 1:
            return "worker"
        return "admin" if self._is_admin(child) else f"worker {child.number}"

    def _start(self, child: _Child) -> None:
        status, reported = os.pipe()
        lifeline, held = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that comes before the child has handlers of its own waits until it has.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            for fd in (status, held, self._wakeup, *self._pipes()):
                os.close(fd)
            place = Place(child.number, self._of, self._folder, dict(self._addresses), lifeline, reported)
            _be(self._work, place, restarted=child.crashes > 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(reported)
        os.close(lifeline)
        child.pid, child.status, child.lifeline = pid, status, held
        child.started, child.due, child.unread, child.exit = time.monotonic(), None, b"", None

    def _pipes(self) -> list[int]:
        return [fd for child in self._children if child.pid for fd in (child.status, child.lifeline)]

    def _wait(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.due is not None and child.due <= now:
                self._start(child)
        if now > self._deadline:
            self._deadline = float("inf")
            self._pass_on(signal.SIGKILL)
        soonest = min([self._deadline, *(child.due for child in self._children if child.due is not None)])
        watched = {child.status: child for child in self._children if child.pid}
        ready, _, _ = select.select(
            [self._wakeup, *watched], [], [], None if soonest == float("inf") else max(0.0, soonest - now)
        )
        if self._wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
        for fd in ready:
            if fd in watched:
                self._read(watched[fd])

    def _read(self, child: _Child) -> None:
        chunk = os.read(child.status, 65536)
        if not chunk:
            self._ended(child)
            return
        *lines, child.unread = (child.unread + chunk).split(b"\n")
        for line in lines:
            fact, *words = line.decode().split("\0")
            if fact == "workers":
                self._of, self._folder = int(words[0]), words[1]
            elif fact == "listening":
                self._addresses[words[0]] = words[1]
            elif fact == "exit":
                child.exit = int(words[0])
            elif fact == "ready" and self._code is None:
                self._start_others()

    def _start_others(self) -> None:
        if self._of > len(self._children):
            # The last one is the admin process.
            self._children += [_Child(number) for number in range(1, self._of + 1)]
        for child in self._children:
            if not child.pid and child.due is None:
                self._start(child)

    def _ended(self, child: _Child) -> None:
        """Its status pipe is closed: wait for the process, and decide what follows."""
        _, state = os.waitpid(child.pid, 0)
        os.close(child.status)
        os.close(child.lifeline)
        child.pid = 0
        if self._is_admin(child) and child.exit is None and self._code is not None:
            return
        if child.exit is not None and not (child.exit == 70 and self._code is None):
            self._finish(child.exit)
            return
        if self._code is not None:
            # It was asked to end and died of something else: what it held is not lost, but the drain was not complete.
            self._finish(70)
            return
        number = os.waitstatus_to_exitcode(state)
        why = f"signal {signal.Signals(-number).name}" if number < 0 else f"exit code {number}"
        if time.monotonic() - child.started > STEADY:
            child.crashes = 0
        delay = min(LAST_RESTART, FIRST_RESTART * 2**child.crashes)
        child.crashes += 1
        child.due = time.monotonic() + delay
        print(
            f"headrace: {self._name(child)} crashed ({why}, {child.crashes} in a row); it is started again in {delay:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    def _finish(self, code: int) -> None:
        """A child ended as it meant to: the others end too."""
        if self._code is None or (self._code in (0, 130) and code not in (0, 130)):
            self._code = code
        self._end(code)
        if not self._asked:
            self._asked = 1
            self._deadline = time.monotonic() + LAST_DRAIN
            self._pass_on(signal.SIGTERM)
        if not any(child.pid for child in self._children if not self._is_admin(child)):
            for child in self._children:
                if child.pid:
                    os.kill(child.pid, signal.SIGTERM)


def _be(work: Callable[[Place], int], place: Place, *, restarted: bool) -> None:
    """The child's whole life; never returns."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: _end_before_begun(place))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # Ctrl-C reaches the supervisor alone, which passes it on once.
    os.setpgid(0, 0)
    _die_with_parent()
    os.environ["HEADRACE_SLOT"] = str(place.number)
    if restarted:
        # A fail point kills once.
        os.environ.pop("HEADRACE_FAIL_POINT", None)
    code, meant = 1, False
    try:
        code = work(place)
        meant = True
    except SystemExit as error:
        # A handler's own exit, unreported: the worker is started again.
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a defect: its traceback, and the exit code of failure
        import traceback

        traceback.print_exc()
        meant = True
    if meant:
        place.report("exit", str(code))
        import atexit

        atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _end_before_begun(place: Place) -> None:
    """SIGTERM while the app is still being imported: nothing was begun, so that nothing is left to drain."""
    place.report("exit", "0")
    os._exit(0)


def _die_with_parent() -> None:
    """SIGKILL when the supervisor dies, from the kernel where it does that; the watchdog's lifeline does it elsewhere."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    supervisor = os.getppid()
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)
