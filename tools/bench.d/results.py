"""The figures: one JSON file, written after each measurement, and what is made of several rounds."""

import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterable, Optional

from servers import BIN, ROOT


class Results:
    def __init__(self, path: Optional[Path], tell: Callable, about: dict):
        self.path = path
        self.tell = tell
        # of the machine, and of each workload: changes, bytes
        self.about = about
        self.workloads = {}
        self.measured = []

    @classmethod
    def begin(cls, path: Path, tell: Callable) -> "Results":
        server = subprocess.run([BIN / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        revision = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
        return cls(path, tell, {
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory,
            "postgres": server.split()[2],
            "revision": subprocess.run(revision, capture_output=True, text=True, check=False).stdout.strip(),
        })

    @classmethod
    def read(cls, paths: list) -> "Results":
        """Several runs as one. Figures are compared within a run only, so a later one takes the place of whole workloads."""
        whole = cls(None, print, {})
        for path in paths:
            run = json.loads(path.read_text())
            whole.about = run["about"]
            whole.workloads.update(run["workloads"])
            for figures in run["measured"]:
                figures.setdefault("of", made_of(run["about"]))
            anew = {figures["workload"] for figures in run["measured"]}
            whole.measured = [kept for kept in whole.measured if kept["workload"] not in anew] + run["measured"]
        return whole

    def add(self, figures: dict) -> None:
        self.measured.append({**figures, "command": command(), "of": made_of(self.about)})
        self.tell(figures)
        self.save(self.path)

    def save(self, path: Path) -> None:
        whole = {"about": self.about, "workloads": self.workloads, "measured": self.measured}
        path.with_suffix(".new").write_text(json.dumps(whole, indent=1) + "\n")
        path.with_suffix(".new").rename(path)

    def sound(self) -> bool:
        """Whether nothing failed and nothing differs; what pgcopydb can't do is told, and no failure of this run."""
        return all(counts(figures) or figures["who"].startswith("pgcopydb") for figures in self.measured)

    def groups(self, workload: str) -> dict:
        """The rounds that count of each consumer, in the order in which they were measured first."""
        found = {}
        for figures in self.measured:
            if figures["workload"] == workload and counts(figures):
                found.setdefault(figures["who"], []).append(figures)
        return found

    def excuses(self, workload: str) -> dict:
        """Why a round of a consumer does not count."""
        return {
            figures["who"]: figures.get("failed") or figures.get("absent") or "what it applied differs"
            for figures in self.measured
            if figures["workload"] == workload and not counts(figures)
        }


def made_of(about: dict) -> str:
    """What was measured, as text."""
    return f"PostgreSQL {about['postgres']}, commit {about['revision']}"


def counts(figures: dict) -> bool:
    return not {"failed", "absent"} & set(figures) and figures.get("equal", True)


def command() -> str:
    """What was typed, without where the figures go."""
    words = iter(sys.argv[1:])
    kept = ["tools/bench"]
    for word in words:
        if word in ("--json", "--page"):
            next(words)
        elif not word.startswith(("--json=", "--page=")):
            kept.append(word)
    return shlex.join(kept)


class Spread:
    """The median of some figures, and how far they are apart."""

    def __init__(self, figures: Iterable[float]):
        self.figures = sorted(figures)
        self.median = statistics.median(self.figures)
        self.low, self.high = self.figures[0], self.figures[-1]


def spread(rounds: list, name: str, *further: str) -> Optional[Spread]:
    """Of one figure; `further` are the names within it. None where no round has it."""
    found = []
    for figures in rounds:
        figure = figures.get(name)
        for part in further:
            figure = figure.get(part) if figure is not None else None
        if figure is not None:
            found.append(figure)
    return Spread(found) if found else None
