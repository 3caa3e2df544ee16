"""What was typed, and whom it means. Run by itself it checks what was typed, before anything is built."""

import argparse
import os
import shlex
from pathlib import Path

from copiers import Clone, DumpPsql, DumpRestore, PgcopydbClone
from consumers import Apply, Follow, Native, Receive, Walsender
from pgcopydb import Pgcopydb

WORKLOADS = ("tpcb", "wide", "huge", "hot", "steady")
# Those of a whole database.
COPIES = ("clone", "base")
CONSUMERS = {
    "walsender": (Walsender, []),
    "walsender-streaming": (Walsender, ["proto_version=2", "streaming=on"]),
    "receive": (Receive, []),
    "apply": (Apply, []),
    "follow": (Follow, []),
    "native": (Native, []),
    "native-binary": (Native, ["binary = true"]),
    "pgcopydb": (Pgcopydb, []),
}
COPIERS = {
    "dump-psql": (DumpPsql, []),
    "dump-restore": (DumpRestore, []),
    "pgcopydb-clone": (PgcopydbClone, []),
    "clone": (Clone, []),
}
MEASURES = [*CONSUMERS, *COPIERS, "base", "latency", "growth"]
VARIED = ("receive", "apply", "follow", "clone")


def parse() -> argparse.Namespace:
    def numbers(text: str) -> list:
        return [int(word) for word in text.split(",")]

    def variant(text: str) -> tuple:
        name, _, arguments = text.partition("=")
        who, _, name = name.partition(":")
        if who not in VARIED or not name:
            raise argparse.ArgumentTypeError(f"{text}: wanted is {'|'.join(VARIED)}:NAME=ARGUMENTS")
        return who, name, shlex.split(arguments)

    def measures(text: str) -> list:
        unknown = set(words := text.split(",")) - set(MEASURES)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(MEASURES)}")
        return words

    parser = argparse.ArgumentParser(prog="tools/bench", add_help=False, allow_abbrev=False)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--measure", type=measures, default=MEASURES)
    parser.add_argument("--variant", type=variant, action="append", default=[])
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--rates", type=numbers, default=[500])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--growth", type=numbers, default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--limit", type=float, default=900.0)
    parser.add_argument("--json", type=Path, default=Path(os.environ.get("PGSLUICE_CACHE", ".")) / "bench.json")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--from", type=Path, action="append", dest="earlier")
    options = parser.parse_args()
    known = [*WORKLOADS, *COPIES]
    unknown = set(options.workloads) - set(known)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: workloads are {', '.join(known)}")
    named = options.workloads or [*WORKLOADS[:4], *COPIES]
    options.copies = [name for name in COPIES if name in named]
    options.workloads = [name for name in named if name not in COPIES]
    return options


def consumers(options: argparse.Namespace, known: dict) -> list:
    """In the order of a round: a receive comes before what applies its archive."""
    found = []
    for who, (kind, arguments) in known.items():
        if who in options.measure:
            found.append(kind(who, arguments, options.limit))
        for of, name, further in options.variant:
            if of == who:
                found.append(kind(f"{who}-{name}", arguments + further, options.limit))
    return found


if __name__ == "__main__":
    parse()
