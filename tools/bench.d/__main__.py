"""Measures; see the head of tools/bench for what, and for the options."""

import argparse
import signal
import sys

import latency
import page
import terminal
from backlog import Backlog, sizes
from consumers import Apply, Consumer, Receive
from options import consumers, parse
from pgcopydb import Absent
from results import Results
from servers import Failed, Servers


def drain(consumer: Consumer, backlog: Backlog) -> dict:
    """The figures of one drain, of which `equal` says whether they count."""
    try:
        figures = consumer.drain(backlog)
        if consumer.fills_target:
            figures["equal"] = backlog.target.checksum("run") == backlog.checksum
        return figures
    except Absent as absent:
        return {"absent": str(absent)}
    except Failed as failed:
        return {"failed": str(failed)}


def measure_backlog(load: str, size: dict, rounds: int, who: list, results: Results, title: str = "") -> None:
    title = title or load
    with Servers() as servers:
        terminal.step(f"{title}: making the changes")
        backlog = Backlog(servers, load, size)
        results.workloads[title] = backlog.facts
        for number in range(1, rounds + 1):
            for consumer in who:
                if number > 1 and consumer.once:
                    continue
                results.add({"workload": title, "round": number, "who": consumer.who, **drain(consumer, backlog)})


def measure(options: argparse.Namespace) -> Results:
    results = Results.begin(options.json, terminal.line)
    who = consumers(options)
    if who:
        for load in options.workloads:
            measure_backlog(load, sizes(options.scale), options.rounds, who, results)
    if "latency" in options.measure:
        follows = [(name, arguments) for of, name, arguments in options.variant if of == "follow"]
        for rate in options.rates:
            latency.measure(rate, options.seconds, options.rounds, follows, results)
    if "growth" in options.measure:
        ours = [consumer for consumer in who if isinstance(consumer, (Receive, Apply))]
        ours = ours or [Receive("receive", [], options.limit), Apply("apply", [], options.limit)]
        for changes in options.growth:
            measure_backlog("steady", sizes(options.scale, changes), 1, ours, results, f"growth {changes}")
    return results


def main() -> int:
    # A signal ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse()
    try:
        results = Results.read(options.earlier) if options.earlier else measure(options)
    except (Failed, OSError, ValueError) as failed:
        terminal.error(str(failed))
        return 1
    except KeyboardInterrupt:
        return 130
    terminal.summary(results)
    if options.page:
        page.write(results, options.page)
    return 0 if results.sound() else 1


sys.exit(main())
