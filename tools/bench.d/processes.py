"""What programs and server processes cost: CPU seconds and memory, from /proc.

A program's CPU is the kernel's own account at its end. A server process may end unseen, so all of them are looked at some
times a second, and what the last look missed is lost: less than a tenth of a second each.

Memory of a program is its peak RSS and its peak of anonymous pages; of a server process only the latter is told,
since its RSS is mostly the shared buffers that it has touched.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path

from servers import Failed, Server, last_lines

PERIOD_SECONDS = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    # The name in parentheses may hold spaces; user and system time are the 12th and 13th field after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid: int) -> dict:
    sizes = re.findall(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return {name: int(size) * 1024 for name, size in sizes}


def children(pid: int) -> list:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kind_of(pid: int) -> str:
    """What a server process does, from its title."""
    title = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")
    if "walsender" in title:
        return "walsender"
    if "logical replication" in title and "launcher" not in title:
        return "apply worker"
    return "backend" if re.search(r"127\.0\.0\.1\(\d+\)", title) else "background"


class Watch:
    """Looks at the processes of both servers, and at a program and its children, for the time of a `with`."""

    def __init__(self, *servers: Server):
        self._servers = servers
        self._begin = {}
        self._last = {}
        self._label = {}
        self._anonymous = defaultdict(int)
        self._program = None
        self._program_peak = 0
        self._program_anonymous = 0
        self._stop = threading.Event()

    def __enter__(self) -> "Watch":
        self._look(self._begin)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        self._look(self._last)

    def _loop(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            self._look(self._last)
            self._look_at_program()

    def _look(self, into: dict) -> None:
        anonymous = defaultdict(int)
        for server in self._servers:
            for pid in children(server.pid):
                try:
                    into[pid] = cpu_seconds(pid)
                    # The title is not there yet in the first moments of a process, and tells nothing new later.
                    if self._label.get(pid, " background").endswith("background"):
                        self._label[pid] = f"{server.role} {kind_of(pid)}"
                    if not self._label[pid].endswith("background"):
                        anonymous[self._label[pid]] += memory_bytes(pid).get("RssAnon", 0)
                except (OSError, IndexError):
                    pass
        for label, size in anonymous.items():
            self._anonymous[label] = max(self._anonymous[label], size)

    def _look_at_program(self) -> None:
        pid, family, sizes = self._program, [], []
        try:
            if pid is not None:
                family = [pid]
                for parent in family:
                    family += children(parent)
                sizes = [memory_bytes(member) for member in family]
        except OSError:
            return
        if len(sizes) == 1:
            self._program_peak = max(self._program_peak, sizes[0].get("VmHWM", 0))
        self._program_peak = max(self._program_peak, sum(size.get("VmRSS", 0) for size in sizes))
        self._program_anonymous = max(self._program_anonymous, sum(size.get("RssAnon", 0) for size in sizes))

    def program(self, command: list, limit: float, log: Path) -> dict:
        """Runs a program to its end: seconds, CPU seconds, peak memory."""
        started = time.monotonic()
        with open(log, "wb") as stderr:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        self._program = process.pid
        late = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            late.cancel()
            self._program = None
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            why = f"took longer than {limit:.0f} s" if seconds >= limit else f"exited with {process.returncode}"
            raise Failed(f"{Path(str(command[0])).name} {why}: {last_lines(log.read_text(errors='replace'))}")
        return {
            "seconds": seconds,
            "cpu_seconds": {"program": usage.ru_utime + usage.ru_stime},
            # None where it was too quick to be looked at.
            "peak_bytes": self._program_peak or None,
            "anonymous_bytes": {"program": self._program_anonymous},
        }

    def costs(self, figures: dict) -> dict:
        """The figures of a program, or of none, with those of the servers' processes; after the `with`."""
        cpu = defaultdict(float)
        for pid, seconds in self._last.items():
            cpu[self._label.get(pid, "background")] += seconds - self._begin.get(pid, 0.0)
        known = {label: round(seconds, 2) for label, seconds in sorted(cpu.items()) if seconds >= 0.01}
        figures["cpu_seconds"] = {**figures.get("cpu_seconds", {}), **known}
        figures["anonymous_bytes"] = {**figures.get("anonymous_bytes", {}), **self._anonymous}
        return figures
