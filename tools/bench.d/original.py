"""A database that is copied: pgbench's tables and a wide one, at rest or under pgbench's load."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from backlog import NAME, sizes
from servers import BIN, ROOT, Failed, Servers, run

# What every consistent copy of pgbench's tables fulfils, at whatever moment it was taken.
BALANCED = """select s = (select sum(tbalance) from pgbench_tellers) and s = (select sum(bbalance) from pgbench_branches)
              and s = (select coalesce(sum(delta), 0) from pgbench_history) from (select sum(abalance) as s from pgbench_accounts) a"""
# Until the load is what it is going to be.
WARM_SECONDS = 2.0


class Original:
    """Has what a consumer asks of a backlog, too: both servers, a folder, and a checksum to compare the target with."""

    def __init__(self, servers: Servers, scale: float):
        self.servers = servers
        self.source, self.target = servers.source, servers.target
        self.folder = servers.folder / "bench"
        self.folder.mkdir()
        # Transactions a second that the source has while it is copied.
        self.rate = 0
        self._environment = {**os.environ, **sizes(scale)}
        for server in (self.source, self.target):
            server.sql("alter system set autovacuum = off", "select pg_reload_conf()")
        for step, load in (("schema", "tpcb"), ("schema", "wide"), ("load", "wide")):
            self.workload(step, load)
        # The only table without a key; it gets inserts alone.
        self.source.sql("alter table pgbench_history replica identity full", "vacuum (freeze, analyze)")
        self.checksum = self.source.checksum("postgres")
        # Without the last transactions, where some were made on purpose.
        self.checksum_before, self.endpos = self.checksum, ""
        self.facts = {
            "rows": int(self.source.sql("select (select count(*) from pgbench_accounts) + (select count(*) from pgbench_tellers) "
                                        "+ (select count(*) from pgbench_branches) + (select count(*) from wide)")),
            "table_bytes": int(self.source.sql("select sum(pg_table_size(relid)) from pg_stat_user_tables")),
        }

    def workload(self, step: str, load: str) -> None:
        run([ROOT / "tools" / "workloads", step, load, self.source.conninfo], env=self._environment)

    @contextmanager
    def load(self):
        """The source's load for the time of a `with`, and how many transactions that were."""
        figures = {}
        if not self.rate:
            yield figures
            return
        command = [BIN / "pgbench", "-n", "-c", "2", "-R", str(self.rate), "-T", "86400", self.source.conninfo]
        before, started = self.transactions(), time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pgbench:
            try:
                time.sleep(WARM_SECONDS)
                yield figures
                if pgbench.poll() is not None:
                    raise Failed("pgbench has ended before the copy")
            finally:
                seconds = time.monotonic() - started
                pgbench.terminate()
        figures["rate"] = (self.transactions() - before) / seconds

    def transactions(self) -> int:
        """How many pgbench has made."""
        return int(self.source.sql("select count(*) from pgbench_history"))

    def rest(self) -> None:
        """The checksum anew, once the load has ended."""
        if self.rate:
            self.checksum = self.source.checksum("postgres")

    def is_balanced(self) -> bool:
        """Whether the target is the source as it was at some moment."""
        wide = "select count(*), sum(hashtextextended(t::text, 0)::numeric) from wide t"
        return self.target.sql(BALANCED, database="run") == "t" and self.target.sql(wide, database="run") == self.source.sql(wide)

    def empty_target(self) -> str:
        """Its connection string."""
        self.target.fresh("run", "template0")
        return self.target.database("run")

    def empty_folder(self, name: str) -> Path:
        """A path where nothing is."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def road(self, archive: Path, target: str = "") -> list:
        """What all commands of ours want to know."""
        found = ["--name", NAME, "--source", self.source.conninfo, "--archive", archive]
        return found + (["--target", target] if target else [])

    def settle(self) -> None:
        """So that all begin alike."""
        os.sync()
        for server in (self.source, self.target):
            server.sql("checkpoint")
