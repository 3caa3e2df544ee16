"""Live latency: from a commit on the source until the row is visible on the target, at a fixed rate. benches/latency.rs measures."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import Optional

from backlog import NAME, PROGRAM
from processes import Watch, cpu_seconds, memory_bytes
from results import Results
from servers import Failed, Server, Servers, patiently, run

TABLE = "create table latency (number bigint primary key)"


def measure(rate: int, seconds: int, rounds: int, variants: list, results: Results) -> None:
    """In turns: a subscription, follow and its variants, and the source watched itself, which is the error of the method."""
    ways = {"native": native, "follow": lambda *where: follow(*where, [])}
    for name, arguments in variants:
        ways[f"follow-{name}"] = lambda *where, arguments=arguments: follow(*where, arguments)
    with Servers() as servers:
        for number in range(1, rounds + 1):
            for who, way in [*ways.items(), ("method", None)]:
                try:
                    figures = one(servers, way, rate, seconds)
                except Failed as failed:
                    figures = {"failed": str(failed)}
                results.add({"workload": f"latency at {rate}/s", "round": number, "who": who, **figures})


def one(servers: Servers, way, rate: int, seconds: int) -> dict:
    source, target = servers.source, servers.target
    for server in (source, target):
        server.drop("live")
        server.sql("create database live")
        server.sql(TABLE, database="live")
        server.sql("checkpoint")
    if way is None:
        return watch(servers, source, rate, seconds)
    source.sql(f"create publication {NAME} for all tables", database="live")
    with way(servers, source.database("live"), target.database("live")) as program:
        # The first row tells that all is connected.
        source.sql("insert into latency values (-1)", database="live")
        patiently(lambda: target.sql("select 1 / count(*) from latency", database="live"))
        figures = watch(servers, target, rate, seconds, program)
        figures["equal"] = source.checksum("live") == target.checksum("live")
    return figures


def watch(servers: Servers, target: Server, rate: int, seconds: int, program: Optional[int] = None) -> dict:
    command = [os.environ["PGSLUICE_LATENCY_BIN"], servers.source.database("live"), target.database("live"), rate, seconds]
    with Watch(servers.source, servers.target) as watch:
        before = cpu_seconds(program) if program else 0.0
        figures = json.loads(run(command))
    if program:
        figures["cpu_seconds"] = {"program": cpu_seconds(program) - before}
        figures["peak_bytes"] = memory_bytes(program)["VmHWM"]
    return watch.costs(figures)


@contextmanager
def native(servers: Servers, source: str, target: str):
    server = servers.target
    server.sql(f"create subscription {NAME} connection '{source}' publication {NAME} with (copy_data = false)", database="live")
    try:
        yield None
    finally:
        server.sql(f"drop subscription {NAME}", database="live")


@contextmanager
def follow(servers: Servers, source: str, target: str, arguments: list):
    archive = servers.folder / "live"
    road = ["--name", NAME, "--source", source, "--target", target, "--archive", archive]
    run([PROGRAM, "-q", "setup", *road])
    command = [str(word) for word in [PROGRAM, "-q", "follow", *road, *arguments]]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    run([PROGRAM, "-q", "cleanup", *road])
    shutil.rmtree(archive)
