"""The throw-away source and target: SQL on them, their processes, and databases that begin alike."""

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("PGSLUICE_PG_BIN", ""))

# As on servers that matter, as far as two of them and the program fit one machine. A subscription's worker starts at once, and not
# seconds after the one before it.
SETTINGS = """fsync = on
shared_buffers = '1GB'
max_wal_size = '8GB'
max_worker_processes = 16
wal_retrieve_retry_interval = '10ms'"""


class Failed(Exception):
    """A measurement that gives no figure; the rest goes on."""


def run(command: list, **options) -> str:
    """What the command wrote to stdout; Failed with the end of its stderr."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{Path(str(command[0])).name} exited with {done.returncode}: {last_lines(done.stderr)}")
    return done.stdout.strip()


def last_lines(text: str) -> str:
    """The end of what a program said, without where its files were."""
    return re.sub(r"/\S*pgsluice-bench-[^/\s]*", "…", " / ".join(text.strip().splitlines()[-3:]))


class Server:
    def __init__(self, folder: Path, role: str, conninfo: str):
        self.role = role
        self.conninfo = conninfo
        self.pid = int((folder / role / "data" / "postmaster.pid").read_text().splitlines()[0])

    def database(self, name: str) -> str:
        """The same server's connection string, for another database."""
        return " ".join(word if not word.startswith("dbname=") else f"dbname={name}" for word in self.conninfo.split())

    def sql(self, *statements: str, database: str = "postgres", **options) -> str:
        command = [BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.database(database)]
        for statement in statements:
            command += ["-c", statement]
        return run(command, **options)

    def wal(self) -> int:
        """Bytes of WAL that were ever written."""
        return int(self.sql("select pg_current_wal_insert_lsn() - '0/0'"))

    def version(self) -> int:
        return int(self.sql("show server_version_num"))

    def checksum(self, database: str) -> str:
        """One for all rows of all tables, as text."""
        tables = self.sql(
            """select format('%I.%I', schemaname, tablename) from pg_tables
               where schemaname not in ('pg_catalog', 'information_schema', 'pgsluice') order by 1""",
            database=database,
        ).splitlines()
        sums = [
            self.sql(f"select count(*), sum(hashtextextended(t::text, 0)::numeric) from {table} t", database=database)
            for table in tables
        ]
        return hashlib.md5(repr((tables, sums)).encode()).hexdigest()[:12]

    def fresh(self, name: str, template: str) -> None:
        """A database that is a copy of another. Its files are copied, so that none of its pages are in shared buffers."""
        self.drop(name)
        strategy = " strategy file_copy" if self.version() >= 150000 else ""
        self.sql(f"create database {name} template {template}{strategy}")

    def drop(self, name: str) -> None:
        patiently(lambda: self.sql(f"drop database if exists {name} with (force)"))


def patiently(attempt, seconds: float = 20.0):
    """What has just let go of a slot or a database may take a moment to be gone."""
    end = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except Failed:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class Servers:
    """Both, for the time of a `with`; with a folder that everybody may enter, as servers are not run by root."""

    def __enter__(self) -> "Servers":
        self._tool = ROOT / "tools" / "cluster"
        self.folder = Path(tempfile.mktemp(prefix="pgsluice-bench-"))
        self._environment = {**os.environ, "PGSLUICE_PLAY": str(self.folder), "PGSLUICE_PLAY_SETTINGS": SETTINGS}
        try:
            printed = run([self._tool, "start"], env=self._environment)
            found = dict(shlex.split(line)[1].split("=", 1) for line in printed.splitlines())
            self.source = Server(self.folder, "source", found["PGSLUICE_SOURCE"])
            self.target = Server(self.folder, "target", found["PGSLUICE_TARGET"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        subprocess.run([self._tool, "stop"], env=self._environment, check=False)
