"""The guard that stands between a supervisor and one program.

Run as ``python -I guard.py STOP_SIGNAL GRACE_S USER NICENESS -- PROGRAM ARG ...`` with the read end of the supervisor's
pipe as standard input. It starts the program in a process group of its own and waits for the first of two:
the program ends (the guard ends with its exit code), or the pipe closes because the supervisor stopped or
was killed (the whole group gets STOP_SIGNAL, and SIGKILL after GRACE_S seconds). A guard that is itself killed
takes its program with it (PR_SET_PDEATHSIG). USER is a name to change to, or ``-``;
NICENESS is how much less right to the processor the program has.

It imports nothing of the project, so that it starts in 15 ms and holds 8 MB.
"""

import contextlib
import ctypes
import os
import pwd
import select
import signal
import subprocess
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
GUARD_IGNORES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Guard one program; return the exit code to pass on."""
    stop_signal, grace_s, user, niceness = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    argv = sys.argv[6:]
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    identity: Any = {}
    if user != "-":
        entry = pwd.getpwnam(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def die_with_guard() -> None:
        # An ignored signal stays ignored across exec: the program gets the defaults back.
        for number in GUARD_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        if niceness:
            own = os.nice(niceness)
            # Linux may share the processor between sessions first, and only within one by niceness.
            with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
                group.write(str(own))
        # After the change of user, which would clear it; SIGKILL, because nobody is left to wait.
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    # Signals meant for the supervisor's terminal group never end the guard before its program.
    for number in GUARD_IGNORES:
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_guard,
        restore_signals=True,
        **identity,
    )
    poller = select.poll()
    poller.register(0, select.POLLHUP | select.POLLIN)
    pidfd = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
    if pidfd is not None:
        poller.register(pidfd, select.POLLIN)
    while child.poll() is None:
        ready = poller.poll(None if pidfd is not None else 200)
        if any(fd == 0 for fd, _ in ready) and not os.read(0, 1):
            return end(child, stop_signal, grace_s)
    # What the program itself left behind in its group goes too.
    end_group(child.pid, signal.SIGKILL)
    code = child.returncode
    return code if code >= 0 else 128 - code


def end(child: "subprocess.Popen[bytes]", stop_signal: int, grace_s: float) -> int:
    """Stop the program's group: first politely, then for certain."""
    # PostgreSQL's own children must not get the polite signal: the program decides for them.
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, stop_signal)
    deadline = time.monotonic() + grace_s
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    end_group(child.pid, signal.SIGKILL)
    child.wait()
    return 0


def end_group(group: int, number: int) -> None:
    """Signal a process group; it may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
