"""A base in the archive, a log behind it, and the target that both make without the source; beside pg_dump's files and pg_restore."""

import json

from backlog import NAME, PROGRAM
from consumers import Consumer, folder_bytes
from copiers import JOBS
from original import Original
from servers import BIN, run

ARCHIVE, FILES = "archive", "dump"
# What ReplayBase makes, as a template.
RESTORED = "restored"


class Base(Consumer):
    """Ours into an archive, each time with a slot and a log of its own."""

    fills_target = False

    def drain(self, original: Original) -> dict:
        archive = original.folder / ARCHIVE
        if archive.exists():
            run([PROGRAM, "-q", "cleanup", "--archive-too", *original.road(archive)])
        original.settle()
        command = [PROGRAM, "-q", "clone", "--into-archive", "--jobs", JOBS, *original.road(archive)]
        return {**self.watched(original, command), "kept_bytes": taken(original)["bytes"]}


class Dump(Consumer):
    """pg_dump into files, compressed as it does by itself."""

    fills_target = False

    def drain(self, original: Original) -> dict:
        folder = original.empty_folder(FILES)
        original.settle()
        command = [BIN / "pg_dump", "-Fd", "-j", JOBS, "-f", folder, "-d", original.source.conninfo]
        return {**self.watched(original, command), "kept_bytes": folder_bytes(folder)}


class Restore(Consumer):
    """pg_restore of pg_dump's files."""

    def drain(self, original: Original) -> dict:
        target = original.empty_target()
        original.settle()
        command = [BIN / "pg_restore", "--exit-on-error", "-j", JOBS, "-d", target, original.folder / FILES]
        return self.watched(original, command)

    def is_equal(self, original: Original) -> bool:
        return original.target.checksum("run") == original.checksum_before


class ReplayBase(Restore):
    """The base alone: as far as it is consistent, and no further."""

    def drain(self, original: Original) -> dict:
        target = original.empty_target()
        original.settle()
        return self.watched(original, replay_base(original, target))


class Replay(Consumer):
    """Base and log in one."""

    def drain(self, original: Original) -> dict:
        target = original.empty_target()
        original.settle()
        return self.watched(original, replay(original, target))


class ReplayLog(Consumer):
    """The log alone, onto what ReplayBase makes."""

    def drain(self, original: Original) -> dict:
        original.target.fresh("run", RESTORED)
        original.settle()
        return self.watched(original, self.command(original, original.target.database("run")))

    def command(self, original: Original, target: str) -> list:
        return replay(original, target, "--from-target")


class Apply(ReplayLog):
    """The same by apply."""

    def command(self, original: Original, target: str) -> list:
        road = ["--name", NAME, "--target", target, "--archive", original.folder / ARCHIVE]
        return [PROGRAM, "-q", "apply", *road, "--endpos", original.endpos]


def replay(original: Original, target: str, *to: str) -> list:
    road = ["--name", NAME, "--target", target, "--archive", original.folder / ARCHIVE]
    return [PROGRAM, "-q", "replay", *to, "--jobs", JOBS, *road]


def replay_base(original: Original, target: str) -> list:
    return replay(original, target, "--to-lsn", taken(original)["through"])


def taken(original: Original) -> dict:
    """The base that the archive has."""
    return json.loads(run([PROGRAM, "-q", "archive", "bases", "--json", "--archive", original.folder / ARCHIVE]))


def write_log(original: Original) -> int:
    """pgbench's transactions into the log behind the last base, whose target is kept as it is without them; how many they are."""
    before = original.transactions()
    original.target.sql(f"create database {RESTORED} template template0")
    original.workload("load", "tpcb")
    # pgbench does not wait for its commits to be flushed.
    original.source.sql("checkpoint")
    original.endpos = original.source.sql("select pg_current_wal_flush_lsn()")
    run([PROGRAM, "-q", "receive", *original.road(original.folder / ARCHIVE), "--endpos", original.endpos])
    run(replay_base(original, original.target.database(RESTORED)))
    original.checksum_before, original.checksum = original.checksum, original.source.checksum("postgres")
    return original.transactions() - before


AT_REST = {"base": Base, "dump": Dump}
WITH_LOG = {"restore": Restore, "replay-base": ReplayBase, "replay": Replay, "replay-log": ReplayLog, "apply": Apply}


def who(kinds: dict, limit: float) -> list:
    return [kind(name, [], limit) for name, kind in kinds.items()]
