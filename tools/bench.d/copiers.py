"""Who copies a database, each as a function from an Original to its figures. What was copied is compared by the caller."""

import shutil
import subprocess
import time

from backlog import PROGRAM
from consumers import Consumer
from original import Original
from pgcopydb import NAME as PGCOPYDB
from pgcopydb import Absent
from servers import BIN, Server, run

JOBS = 4
PIPE = 'set -o pipefail; "$0" -d "$1" | "$2" -XAtq -v ON_ERROR_STOP=1 -d "$3"'
FILES = '"$0" -Fd -j "$5" -Z 0 -f "$4" -d "$1" && "$2" --exit-on-error -j "$5" -d "$3" "$4"'


class Copier(Consumer):
    """Under a load of the source the copy must be the source as it was at some moment, else as it is."""

    def drain(self, original: Original) -> dict:
        target = original.empty_target()
        original.settle()
        with original.load() as load:
            figures = self.watched(original, self.command(original, target) + self.arguments)
        original.rest()
        return {**figures, **load}

    def is_equal(self, original: Original) -> bool:
        return original.is_balanced() if original.rate else super().is_equal(original)

    def command(self, original: Original, target: str) -> list:
        raise NotImplementedError


class DumpPsql(Copier):
    """pg_dump as text, into psql."""

    def command(self, original: Original, target: str) -> list:
        return ["bash", "-c", PIPE, BIN / "pg_dump", original.source.conninfo, BIN / "psql", target]


class DumpRestore(Copier):
    """pg_dump into uncompressed files, then pg_restore from them."""

    def command(self, original: Original, target: str) -> list:
        programs = [BIN / "pg_dump", original.source.conninfo, BIN / "pg_restore", target]
        return ["bash", "-c", FILES, *programs, original.empty_folder("dump"), JOBS]


class PgcopydbClone(Copier):
    def drain(self, original: Original) -> dict:
        if not shutil.which(PGCOPYDB):
            raise Absent("not installed")
        return super().drain(original)

    def command(self, original: Original, target: str) -> list:
        road = ["--source", original.source.conninfo, "--target", target, "--dir", original.empty_folder(PGCOPYDB)]
        return [PGCOPYDB, "clone", *road, "--table-jobs", JOBS, "--index-jobs", JOBS]


class Clone(Copier):
    """Ours, by default with as many jobs. It receives the changes meanwhile; under a load it keeps what it needs to go on, and the target is compared after it did."""

    def drain(self, original: Original) -> dict:
        self._road = original.road(original.empty_folder("archive"), original.target.database("run"))
        with Retained(original.source) as retained:
            figures = super().drain(original)
        if not original.rate:
            return figures
        run([PROGRAM, "-q", "follow", *self._road, "--endpos", "current"])
        run([PROGRAM, "-q", "cleanup", *self._road])
        return {**figures, "retained_bytes": retained.bytes}

    def command(self, original: Original, _: str) -> list:
        return [PROGRAM, "-q", "clone", *self._road, *(["--keep"] if original.rate else [])]

    def is_equal(self, original: Original) -> bool:
        return Consumer.is_equal(self, original)


class Retained:
    """The most WAL that slots hold back for the time of a `with`, looked at five times a second."""

    LOOK = "select max(pg_current_wal_lsn() - restart_lsn) from pg_replication_slots \\watch 0.2\n"

    def __init__(self, source: Server):
        self._source = source
        self.bytes = None

    def __enter__(self) -> "Retained":
        command = [BIN / "psql", "-XAtq", "-d", self._source.conninfo]
        self._psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._psql.stdin.write(self.LOOK)
        self._psql.stdin.close()
        self._psql.stdin = None
        return self

    def __exit__(self, *_) -> None:
        self._psql.terminate()
        looks = self._psql.communicate()[0].split()
        # Without a slot a look gives an empty line.
        self.bytes = max(map(int, looks), default=None)


def version() -> str:
    """pgcopydb's, empty where it is not installed."""
    return run([PGCOPYDB, "--version"]).splitlines()[0].split()[-1] if shutil.which(PGCOPYDB) else ""
