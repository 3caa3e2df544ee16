"""A workload that was made once and waits in a slot, and what is needed to drain it again and again."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from servers import BIN, ROOT, Servers, patiently, run

PROGRAM = os.environ.get("PGSLUICE_BIN", "pgsluice")
# What setup makes; its slot is replaced by a copy of BASE before each drain.
NAME = "bench"
BASE = "bench_base"
# Takes one row after the load: when it is on the target, everything is.
FINISH = "create table finish (id int primary key)"


def sizes(scale: float, growth: int = 0) -> dict:
    """What tools/workloads takes from the environment."""
    return {
        "SCALE": str(max(1, int(50 * scale))),
        "TPCB_TX": str(int(240_000 * scale)),
        "WIDE_ROWS": str(int(1_000_000 * scale)),
        "HUGE_ROWS": str(int(2_000_000 * scale)),
        "HOT_UPDATES": str(int(300_000 * scale)),
        "STEADY_CHANGES": str(growth or int(1_000_000 * scale)),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }


class Backlog:
    def __init__(self, servers: Servers, load: str, size: dict):
        self.servers = servers
        self.source, self.target = servers.source, servers.target
        self.folder = servers.folder / "bench"
        self.folder.mkdir()
        self.archives = {}
        self._environment = {**os.environ, **size}
        self._make(load)

    def _make(self, load: str) -> None:
        source, target = self.source, self.target
        source.sql("alter system set autovacuum = off", "select pg_reload_conf()")
        target.sql("create database base")
        for conninfo in (source.conninfo, target.database("base")):
            self._workload("schema", load, conninfo)
        for server, database in ((source, "postgres"), (target, "base")):
            server.sql(FINISH, database=database)
            # The only table without a key; it gets inserts alone.
            server.sql("alter table if exists pgbench_history replica identity full", database=database)
            server.sql("vacuum (freeze, analyze)", database=database)
        # Not all tables: what a consumer makes on the source is none of the workload.
        tables = source.sql("select string_agg(format('%I', tablename), ', ') from pg_tables where schemaname = 'public'")
        source.sql(f"create publication {NAME} for table {tables}")
        self._setup = self.folder / "setup"
        run([PROGRAM, "-q", "setup", "--name", NAME, "--source", source.conninfo, "--archive", self._setup])
        source.sql(f"select pg_copy_logical_replication_slot('{NAME}', '{BASE}')")
        begin = source.wal()
        self._workload("load", load, source.conninfo)
        source.sql("insert into finish values (1)")
        self.endpos = source.sql("select pg_current_wal_flush_lsn()")
        wal_bytes = source.wal() - begin
        source.sql("checkpoint")
        self.checksum = source.checksum("postgres")
        self.facts = {"wal_bytes": wal_bytes, **self._stream()}

    def _workload(self, step: str, load: str, conninfo: str) -> None:
        run([ROOT / "tools" / "workloads", step, load, conninfo], env=self._environment)

    def _stream(self) -> dict:
        """The measure of size: the whole pgoutput stream, and that by zstd -1."""
        self.fresh_slot("stream")
        path = self.folder / "stream"
        run(self.recvlogical("stream", path))
        self.drop_slot("stream")
        packed = subprocess.Popen(["zstd", "-1", "-q", "-c", path], stdout=subprocess.PIPE)
        size = sum(len(piece) for piece in iter(lambda: packed.stdout.read(1 << 20), b""))
        packed.wait()
        facts = {"stream_bytes": path.stat().st_size, "stream_zstd1_bytes": size}
        path.unlink()
        return facts

    def recvlogical(self, slot: str, path, *options: str) -> list:
        wanted = [f"publication_names={NAME}", *(options or ("proto_version=1",))]
        command = [BIN / "pg_recvlogical", "-d", self.source.conninfo, "--slot", slot, "--start", "--no-loop"]
        command += ["--endpos", self.endpos, "-f", path]
        return command + [word for option in wanted for word in ("-o", option)]

    def fresh_slot(self, name: str, plugin: str = "pgoutput") -> None:
        """A slot that stands before the load."""
        self.drop_slot(name)
        self.source.sql(f"select pg_copy_logical_replication_slot('{BASE}', '{name}', false, '{plugin}')")

    def drop_slot(self, name: str) -> None:
        drop = f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{name}'"
        patiently(lambda: self.source.sql(drop))

    def fresh_target(self) -> str:
        """The target as it was before the load; its connection string."""
        self.target.fresh("run", "base")
        return self.target.database("run")

    def fresh_archive(self, name: str) -> Path:
        """An archive as setup left it, with the slot that feeds it."""
        archive = self.folder / f"archive-{name}"
        shutil.rmtree(archive, ignore_errors=True)
        shutil.copytree(self._setup, archive)
        self.fresh_slot(NAME)
        return archive

    def setup_target(self, archive: Path, target: str) -> None:
        run([PROGRAM, "-q", "setup", "--name", NAME, "--source", self.source.conninfo, "--target", target, "--archive", archive])

    def settle(self) -> None:
        """So that all begin alike."""
        os.sync()
        for server in (self.source, self.target):
            server.sql("checkpoint")

    def verify(self, archive: Path) -> dict:
        """How much the whole log holds, once every byte of it was checked."""
        report = json.loads(run([PROGRAM, "-q", "archive", "verify", "--json", "--archive", archive]))
        return {name: report[name] for name in ("transactions", "changes")}
