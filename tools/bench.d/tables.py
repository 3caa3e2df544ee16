"""Which figures are shown, for terminal and page alike."""

from dataclasses import dataclass
from typing import List, Optional

from results import Results, Spread, spread

MEBI, MEGA = 1 << 20, 1e6
# With whom the seconds of the others are compared, in each of the workloads that copy a database.
COPIES = {"clone": "dump-psql", "base": "dump", "replay": "restore"}
# Who applies only the log behind a base.
LOGS = ("replay-log", "apply")


@dataclass
class Table:
    titles: List[str]
    # Of each row its name and its cells; None where there is no such figure.
    rows: List[tuple]


def drained(results: Results, workload: str) -> Table:
    """A row for each consumer of a backlog."""
    groups = results.groups(workload)
    native, limit = median(groups, "native"), median(groups, "walsender")
    titles = ["seconds", "speed × native", "time × walsender", "CPU s: program", "walsender", "target", "peak MiB", "anonymous MiB", "archive MB", "target WAL MB"]
    rows = []
    for who, rounds in groups.items():
        seconds = spread(rounds, "seconds")
        applies = who.startswith(("apply", "follow", "native", "pgcopydb"))
        rows.append((who, [
            shown(seconds, 1, 2),
            f"{native / seconds.median:.2f}" if native and applies else None,
            f"{seconds.median / limit:.2f}" if limit and not who.startswith("apply") else None,
            shown(spread(rounds, "cpu_seconds", "program"), 1, 1),
            shown(spread(rounds, "cpu_seconds", "source walsender"), 1, 1),
            shown(target_cpu(rounds), 1, 1),
            shown(spread(rounds, "peak_bytes"), MEBI, 0),
            shown(spread(rounds, "anonymous_bytes", "program") or spread(rounds, "anonymous_bytes", "target apply worker"), MEBI, 0),
            shown(spread(rounds, "segments_bytes"), MEGA, 2),
            shown(spread(rounds, "target_wal_bytes"), MEGA, 0) if applies else None,
        ]))
    return Table(titles, rows)


def target_cpu(rounds: list) -> Optional[Spread]:
    """Of those processes of the target that apply: a subscription's worker, or the backends of our connections."""
    return spread(rounds, "cpu_seconds", "target apply worker") or spread(rounds, "cpu_seconds", "target backend")


def bytes_kept(results: Results, workloads: list) -> Table:
    """What a workload is in bytes, and what the archive makes of it."""
    titles = ["transactions", "changes", "WAL MB", "pgoutput MB", "zstd -1 of it MB", "archive MB", "archive ÷ zstd -1", "archive ÷ WAL", "bytes a transaction"]
    rows = []
    for workload in workloads:
        facts = results.workloads[workload]
        rounds = results.groups(workload).get("receive", [])
        kept = spread(rounds, "segments_bytes")
        count = spread(rounds, "transactions")
        rows.append((workload, [
            shown(count, 1, 0),
            shown(spread(rounds, "changes"), 1, 0),
            *(f"{facts[name] / MEGA:.1f}" for name in ("wal_bytes", "stream_bytes", "stream_zstd1_bytes")),
            shown(kept, MEGA, 2),
            f"{kept.median / facts['stream_zstd1_bytes']:.2f}" if kept else None,
            f"{kept.median / facts['wal_bytes']:.2%}" if kept else None,
            f"{kept.median / count.median:.1f}" if kept else None,
        ]))
    return Table(titles, rows)


def copied(results: Results, workload: str) -> Table:
    """A row for each who copies a database, or brings it back."""
    groups, facts = results.groups(workload), results.workloads[workload]
    peer = COPIES[workload.split()[0]]
    other = median(groups, peer)
    titles = ["seconds", f"speed × {peer}", "rows/s", "MB/s", "transactions/s", "CPU s: program", "peak MiB", "kept MB", "of the tables", "target WAL MB", "source's transactions/s", "source retains MB"]
    rows = []
    for who, rounds in groups.items():
        seconds = spread(rounds, "seconds")
        copies, kept = who not in LOGS, spread(rounds, "kept_bytes")
        transactions = facts.get("transactions") if who in LOGS else None
        rows.append((who, [
            shown(seconds, 1, 1),
            f"{other / seconds.median:.2f}" if other and copies else None,
            f"{facts['rows'] / seconds.median:,.0f}" if copies else None,
            f"{facts['table_bytes'] / MEGA / seconds.median:.1f}" if copies else None,
            f"{transactions / seconds.median:,.0f}" if transactions else None,
            shown(spread(rounds, "cpu_seconds", "program"), 1, 1),
            shown(spread(rounds, "peak_bytes"), MEBI, 0),
            shown(kept, MEGA, 1),
            f"{kept.median / facts['table_bytes']:.1%}" if kept else None,
            shown(spread(rounds, "target_wal_bytes"), MEGA, 0) if not kept else None,
            shown(spread(rounds, "rate"), 1, 0),
            shown(spread(rounds, "retained_bytes"), MEGA, 1),
        ]))
    return Table(titles, rows)


def latencies(results: Results, workload: str) -> Table:
    titles = ["p50 ms", "p95 ms", "p99 ms", "max ms", "CPU s: program", "walsender", "peak MiB", "transactions/s"]
    rows = [
        (who, [
            *(shown(spread(rounds, name), 1, 2) for name in ("p50", "p95", "p99", "max")),
            shown(spread(rounds, "cpu_seconds", "program"), 1, 1),
            shown(spread(rounds, "cpu_seconds", "source walsender"), 1, 1),
            shown(spread(rounds, "peak_bytes"), MEBI, 0),
            shown(spread(rounds, "rate"), 1, 0),
        ])
        for who, rounds in results.groups(workload).items()
    ]
    return Table(titles, rows)


def growth(results: Results, workloads: list) -> Table:
    titles = ["changes", "seconds", "microseconds a change", "CPU s: program", "peak MiB", "anonymous MiB"]
    rows = []
    for workload in workloads:
        changes = size_of(workload)
        for who, rounds in results.groups(workload).items():
            seconds = spread(rounds, "seconds")
            rows.append((who, [
                f"{changes}",
                shown(seconds, 1, 2),
                f"{seconds.median / changes * 1e6:.2f}",
                shown(spread(rounds, "cpu_seconds", "program"), 1, 1),
                shown(spread(rounds, "peak_bytes"), MEBI, 0),
                shown(spread(rounds, "anonymous_bytes", "program"), MEBI, 0),
            ]))
    return Table(titles, sorted(rows, key=lambda row: row[0]))


def size_of(workload: str) -> int:
    """Of a workload `growth N`."""
    return int(workload.split()[1])


def median(groups: dict, who: str) -> Optional[float]:
    found = spread(groups.get(who, []), "seconds")
    return found.median if found else None


def shown(figures: Optional[Spread], unit: float, digits: int) -> Optional[str]:
    """The median, and in parentheses the least and the greatest where they look different."""
    if figures is None:
        return None
    low, middle, high = (f"{figure / unit:.{digits}f}" for figure in (figures.low, figures.median, figures.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def kinds(results: Results) -> tuple:
    """The workloads that were measured: backlogs, copies, latencies, growth."""
    names = list(dict.fromkeys(figures["workload"] for figures in results.measured))
    growths = sorted((name for name in names if name.startswith("growth")), key=size_of)
    latencies = [name for name in names if name.startswith("latency")]
    copies = [name for name in names if name.split()[0] in COPIES]
    return [name for name in names if name not in growths + latencies + copies], copies, latencies, growths
