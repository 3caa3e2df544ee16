"""pgcopydb's follow, where it is installed; written for those versions that keep their sentinel on the source (0.10 to 0.12)."""

import shutil
from contextlib import suppress

from backlog import Backlog
from consumers import Consumer
from servers import Failed, run

NAME = "pgcopydb"
PLUGIN = "wal2json"
# It has its ways of never ending, which should not take up the time of all others.
PATIENCE_SECONDS = 300.0


class Absent(Failed):
    """Nothing to measure on this machine."""


class Pgcopydb(Consumer):
    once = True

    def __post_init__(self) -> None:
        self.limit = min(self.limit, PATIENCE_SECONDS)

    def drain(self, backlog: Backlog) -> dict:
        if not shutil.which(NAME):
            raise Absent("not installed")
        source, folder = backlog.source, backlog.folder / NAME
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(Failed):
            # Servers of August 2026 or later want it listed, and those before don't know of it.
            source.sql(f"alter system set output_plugin_libraries = 'pgoutput', '{PLUGIN}'", "select pg_reload_conf()")
        backlog.fresh_slot(NAME, PLUGIN)
        start = source.sql(f"select confirmed_flush_lsn from pg_replication_slots where slot_name = '{NAME}'")
        sentinel = [NAME, "stream", "sentinel"]
        road = ["--source", source.conninfo, "--target", backlog.fresh_target(), "--dir", folder]
        road += ["--slot-name", NAME, "--origin", NAME, "--endpos", backlog.endpos, "--not-consistent", "--resume"]
        try:
            run([*sentinel, "create", "--source", source.conninfo, "--startpos", start, "--endpos", backlog.endpos])
            run([*sentinel, "set", "apply", "--source", source.conninfo])
            backlog.settle()
            return self.watched(backlog, [NAME, "follow", *road])
        finally:
            source.sql(f"drop schema if exists {NAME} cascade")
            backlog.drop_slot(NAME)
            origin = "select pg_replication_origin_drop(roname) from pg_replication_origin where roname = "
            backlog.target.sql(f"{origin}'{NAME}'")
