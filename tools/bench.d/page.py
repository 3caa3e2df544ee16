"""docs/BENCHMARKS.md and its plots, from the figures."""

from pathlib import Path
from typing import List

import svg
import tables
from results import Results, made_of, spread

HEAD = """# How fast it is

Written by `tools/bench`, from `bench/results.json`; {about}. Source and target are on one machine, so every second of CPU that a program takes
is taken from the servers too: look at ratios within a table rather than at seconds. fsync is on everywhere.

A workload is made once. Each consumer drains its backlog from a copy of one slot, into a copy of one database, after a checkpoint, in turns over all rounds.
A figure is the median of the rounds, with the least and the greatest in parentheses. Each of them counts only because the target was
equal to the source, by checksum over all rows, and the archive was verified.

- **walsender**: `pg_recvlogical` of pgoutput into nothing, which no receiver can beat; **walsender-streaming**: with large transactions streamed.
- **receive**: ours into an archive that is durable, compressed and sealed. **apply**: ours from that archive. **follow**: ours from end to end.
- **native**: a subscription, until its last row can be seen; **native-binary**: with binary values. **pgcopydb**: its `follow`, in one round only.
- *CPU s*: of the program, of the source's walsender, of the target's backends (for a subscription: its worker).
- *peak* is resident memory with the program's own code; *anonymous* is without (for a subscription: of its worker, without shared buffers).
- *archive* is its segments with all their headers and footers, *target WAL* what the target wrote meanwhile.
"""

WORKLOADS = {
    "tpcb": "pgbench's default transactions by 4 clients",
    "wide": "inserts of 12 mixed columns, 1,000 a transaction",
    "huge": "one UPDATE of all rows of a narrow table",
    "hot": "single-row updates over 1,000 rows",
    "steady": "inserts and updates of narrow rows, 1,000 changes a transaction",
}


LATENCY = """From the answer to a commit on the source until the row is seen on the target, by one process and one clock. *method* is the source
watched itself: the error of measuring, which is in all figures.
"""


COPIES = {
    "clone": """Of pgbench's tables and a wide one, {rows:,} rows, {megabytes:.0f} MB without indexes: schema, rows, indexes and keys into an empty database. **dump-psql**: `pg_dump | psql`;
**dump-restore**: `pg_dump -Fd -j 4 -Z 0`, then `pg_restore -j 4`; **pgcopydb-clone**: its `clone` ({pgcopydb}) with 4 jobs for tables and 4 for indexes; **clone**: ours with 4, which
makes and drops a slot, receives the source's changes, and runs ANALYZE, too. Rows and bytes a second are those of the tables by all of the time.
""",
    "base": """The same database, {rows:,} rows and {megabytes:.0f} MB, into files. **base**: `pgsluice clone --into-archive --jobs 4`, whose files zstd compresses; **dump**: `pg_dump -Fd -j 4`, whose
files gzip compresses by default. *kept* is what the files take.
""",
    "replay": """Out of these files into an empty database, the source not being asked, with {transactions:,} transactions of pgbench in the log behind the base. **restore**: `pg_restore -j 4` of dump's
files; **replay-base**: `pgsluice replay --jobs 4` to where the base is consistent; **replay**: with all of the log; **replay-log**: `--from-target`, the log alone, onto what replay-base
makes; **apply**: the same by `pgsluice apply`.
""",
}

LOADED = """The same while pgbench does {rate} on the source. A copy of the others counts if it is the source as it was at some moment: pgbench's sums agree, the wide table is equal. Ours is followed up once the
load has ended, and must then be equal by checksum. *source retains* is the most WAL that its slot held back.
"""


def write(results: Results, folder: Path) -> None:
    plots = folder / "bench"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    results.save(plots / "results.json")
    backlogs, copies, latencies, growths = tables.kinds(results)
    parts = [head(results.about)]
    for workload in backlogs:
        parts += backlog(results, workload, plots)
    if backlogs:
        parts += ["## Bytes\n", markdown(tables.bytes_kept(results, backlogs))]
    for workload in copies:
        parts += copy(results, workload)
    for workload in latencies:
        parts += latency(results, workload, plots)
    if growths:
        parts += growth(results, growths, plots)
    # What a person has to say of it.
    notes = plots / "notes.md"
    if notes.exists():
        parts.append(notes.read_text())
    (folder / "BENCHMARKS.md").write_text("\n".join(part for part in parts if part).rstrip() + "\n")


def head(about: dict) -> str:
    gibibytes = about["memory_bytes"] / (1 << 30)
    machine = f"{about['cores']} cores, {gibibytes:.0f} GiB, {made_of(about)} where nothing else is said"
    return HEAD.format(about=machine)


def backlog(results: Results, workload: str, plots: Path) -> List[str]:
    plot = svg.bars([svg.Bars("Until all is done", "seconds", medians(results, workload, "seconds"))])
    return [
        f"## {workload}: {WORKLOADS[workload]}\n",
        markdown(tables.drained(results, workload)),
        excuses(results, workload),
        picture(plots, workload, plot),
        repeat(results, workload),
    ]


def copy(results: Results, workload: str) -> List[str]:
    facts = results.workloads[workload]
    said = LOADED if workload.endswith("/s") else COPIES[workload]
    facts = {"transactions": 0, "pgcopydb": "", **facts, "megabytes": facts["table_bytes"] / tables.MEGA, "rate": workload.split()[-1]}
    return [
        f"## {workload.capitalize()}\n",
        said.format(**facts),
        markdown(tables.copied(results, workload)),
        excuses(results, workload),
        repeat(results, workload),
    ]


def latency(results: Results, workload: str, plots: Path) -> List[str]:
    panels = [svg.Bars(name, "milliseconds", medians(results, workload, name)) for name in ("p50", "p99")]
    return [
        f"## Live {workload}\n",
        LATENCY,
        markdown(tables.latencies(results, workload)),
        excuses(results, workload),
        picture(plots, workload.replace(" at ", "-").removesuffix("/s"), svg.bars(panels)),
        repeat(results, workload),
    ]


def growth(results: Results, workloads: List[str], plots: Path) -> List[str]:
    return [
        "## Growth\n",
        f"{WORKLOADS['steady'].capitalize()}, from few to many.\n",
        markdown(tables.growth(results, workloads)),
        *(excuses(results, workload) for workload in workloads),
        picture(plots, "growth", growth_plot(results, workloads)),
        repeat(results, *workloads),
    ]


def markdown(table: tables.Table) -> str:
    """Columns without any figure are left out."""
    kept = [at for at in range(len(table.titles)) if any(cells[at] for _, cells in table.rows)]
    lines = ["| | " + " | ".join(table.titles[at] for at in kept) + " |", "| --- |" + " ---: |" * len(kept)]
    for name, cells in table.rows:
        lines.append(f"| {name} | " + " | ".join(cells[at] or "" for at in kept) + " |")
    return "\n".join(lines) + "\n"


def excuses(results: Results, workload: str) -> str:
    return "".join(f"- {who}, where it does not count: {why}.\n" for who, why in results.excuses(workload).items())


def repeat(results: Results, *workloads: str) -> str:
    """The commands that gave these figures, and of what where the head of the page says otherwise."""
    of = [figures for figures in results.measured if figures["workload"] in workloads]
    commands = dict.fromkeys(figures["command"] for figures in of)
    others = [other for other in dict.fromkeys(figures["of"] for figures in of) if other != made_of(results.about)]
    return "Measured by " + ", ".join([*(f"`{command}`" for command in commands), *others]) + ".\n"


def medians(results: Results, workload: str, figure: str) -> List[tuple]:
    found = [(who, spread(rounds, figure)) for who, rounds in results.groups(workload).items()]
    return [(who, figures) for who, figures in found if figures]


def growth_plot(results: Results, workloads: List[str]) -> str:
    def lines(figure: str, unit: float) -> dict:
        found = {}
        for workload in workloads:
            for who, figures in medians(results, workload, figure):
                found.setdefault(who, []).append((tables.size_of(workload), figures.median / unit))
        return found

    time = svg.Lines("Time", "seconds", lines("seconds", 1))
    memory = svg.Lines("Memory", "MiB at its peak", lines("peak_bytes", tables.MEBI))
    return svg.lines([time, memory], "changes")


def picture(plots: Path, name: str, drawing: str) -> str:
    (plots / f"{name}.svg").write_text(drawing)
    return f"![{name}](bench/{name}.svg)\n"
