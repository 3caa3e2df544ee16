"""Who drains a backlog, each as a function from a Backlog to its figures. What was applied is compared by the caller."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from backlog import NAME, PROGRAM, Backlog
from processes import Watch
from servers import BIN

# Returns when the last row of the load can be seen. Each look is a transaction of its own: an open one would keep dead rows from being pruned.
SEEN = "do $$ begin while not exists (select from finish) loop commit; perform pg_sleep(0.005); end loop; end $$"


@dataclass
class Consumer:
    who: str
    arguments: list
    limit: float
    # Whether it fills a target, which is then compared.
    fills_target = True
    # Measured in the first round only, since it takes so long.
    once = False

    def is_equal(self, backlog: Backlog) -> bool:
        """Whether the target is what it should be."""
        return backlog.target.checksum("run") == backlog.checksum

    def watched(self, backlog: Backlog, command: list) -> dict:
        """Runs a program under watch."""
        log = backlog.folder / "log"
        before = backlog.target.wal()
        with Watch(backlog.source, backlog.target) as watch:
            figures = watch.program(command, self.limit, log)
        figures["target_wal_bytes"] = backlog.target.wal() - before
        return watch.costs(figures)


class Walsender(Consumer):
    """pg_recvlogical into nothing: what no receiver can beat."""

    fills_target = False

    def drain(self, backlog: Backlog) -> dict:
        backlog.fresh_slot(NAME)
        backlog.settle()
        return self.watched(backlog, backlog.recvlogical(NAME, "/dev/null", *self.arguments))


class Receive(Consumer):
    """Ours into an archive: durable, compressed, sealed."""

    fills_target = False

    def drain(self, backlog: Backlog) -> dict:
        archive = backlog.fresh_archive(self.who)
        backlog.settle()
        command = [PROGRAM, "-q", "receive", "--name", NAME, "--source", backlog.source.conninfo]
        command += ["--archive", archive, "--endpos", backlog.endpos]
        figures = self.watched(backlog, command + self.arguments)
        backlog.archives[self.who] = archive
        return {**figures, **sizes(archive), **backlog.verify(archive)}


class Apply(Consumer):
    """Ours from the archive that a receive left."""

    def drain(self, backlog: Backlog) -> dict:
        archive = self._archive(backlog)
        target = backlog.fresh_target()
        backlog.setup_target(archive, target)
        backlog.settle()
        command = [PROGRAM, "-q", "apply", "--name", NAME, "--target", target, "--archive", archive]
        return self.watched(backlog, command + ["--endpos", backlog.endpos] + self.arguments)

    def _archive(self, backlog: Backlog) -> Path:
        """A copy, so that one run can't leave anything to the next."""
        of = self.who.replace("apply", "receive", 1)
        of = of if of in backlog.archives else "receive"
        if of not in backlog.archives:
            Receive("receive", [], self.limit).drain(backlog)
        archive = backlog.folder / "archive"
        shutil.rmtree(archive, ignore_errors=True)
        shutil.copytree(backlog.archives[of], archive)
        return archive


class Follow(Consumer):
    """Ours from end to end."""

    def drain(self, backlog: Backlog) -> dict:
        archive = backlog.fresh_archive(self.who)
        target = backlog.fresh_target()
        backlog.setup_target(archive, target)
        backlog.settle()
        command = [PROGRAM, "-q", "follow", "--name", NAME, "--source", backlog.source.conninfo, "--target", target]
        figures = self.watched(backlog, command + ["--archive", archive, "--endpos", backlog.endpos] + self.arguments)
        figures.update(sizes(archive))
        shutil.rmtree(archive)
        return figures


class Native(Consumer):
    """A subscription, until the last row can be seen."""

    def drain(self, backlog: Backlog) -> dict:
        target = backlog.target
        backlog.fresh_slot("native")
        conninfo = backlog.fresh_target()
        options = ", ".join(["create_slot = false", "slot_name = native", "copy_data = false", "enabled = false", *self.arguments])
        target.sql(f"create subscription {NAME} connection '{backlog.source.conninfo}' publication {NAME} with ({options})", database="run")
        backlog.settle()
        try:
            costs = self.watched(backlog, psql(conninfo, f"alter subscription {NAME} enable", SEEN))
        finally:
            for change in ("disable", "set (slot_name = none)"):
                target.sql(f"alter subscription {NAME} {change}", database="run")
            target.sql(f"drop subscription {NAME}", database="run")
            backlog.drop_slot("native")
        # The program was psql, which only waited.
        for figure in ("cpu_seconds", "anonymous_bytes"):
            del costs[figure]["program"]
        del costs["peak_bytes"]
        return costs


def psql(conninfo: str, *statements: str) -> list:
    commands = [word for statement in statements for word in ("-c", statement)]
    return [BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", conninfo, *commands]


def sizes(archive: Path) -> dict:
    return {"segments_bytes": folder_bytes(archive / "segments"), "archive_bytes": folder_bytes(archive)}


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
