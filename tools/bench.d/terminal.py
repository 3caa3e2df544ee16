"""What a person sees who waits."""

import sys

import tables
from results import Results


def step(text: str) -> None:
    begin, end = ("\33[1m", "\33[0m") if sys.stderr.isatty() else ("", "")
    print(f"{begin}==> {text}{end}", file=sys.stderr, flush=True)


def error(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)


def line(figures: dict) -> None:
    """One measurement, as soon as it is done."""
    if "seconds" in figures:
        said = f"{figures['seconds']:8.2f} s"
    elif "p50" in figures:
        said = "  ".join(f"{name} {figures[name]:.2f} ms" for name in ("p50", "p95", "p99", "max"))
    else:
        said = figures.get("absent") or f"FAILED: {figures['failed']}"
    verdict = {True: "equal", False: "DIFFERENT", None: ""}[figures.get("equal")]
    print(f"{figures['workload']:16} {figures['round']:2}  {figures['who']:20} {said}  {verdict}".rstrip(), flush=True)


def table(title: str, found: tables.Table) -> None:
    """Columns without any figure are left out."""
    if not found.rows:
        return
    columns = [[title, *(name for name, _ in found.rows)]]
    for at, head in enumerate(found.titles):
        cells = [cells[at] for _, cells in found.rows]
        if any(cells):
            columns.append([head, *(cell or "-" for cell in cells)])
    widths = [max(map(len, column)) for column in columns]
    print()
    for row in zip(*columns):
        first, *others = (cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths)))
        print("  ".join([first, *others]))


def summary(results: Results) -> None:
    backlogs, copies, latencies, growths = tables.kinds(results)
    for workload in backlogs:
        table(workload, tables.drained(results, workload))
    table("bytes", tables.bytes_kept(results, backlogs))
    for workload in copies:
        table(workload, tables.copied(results, workload))
    for workload in latencies:
        table(workload, tables.latencies(results, workload))
    table("growth", tables.growth(results, growths))
    for workload in dict.fromkeys(figures["workload"] for figures in results.measured):
        for who, why in results.excuses(workload).items():
            print(f"\n{workload}, {who}: {why}")
    if results.path:
        print(f"\nall figures: {results.path}")
