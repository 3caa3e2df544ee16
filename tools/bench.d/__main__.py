"""Measures; see the head of tools/bench for what, and for the options."""

import argparse
import signal
import sys

import bases
import copiers
import latency
import page
import terminal
from backlog import Backlog, sizes
from consumers import Apply, Consumer, Receive
from options import CONSUMERS, COPIERS, consumers, parse
from original import Original
from pgcopydb import Absent
from results import Results
from servers import Failed, Servers


def drain(consumer: Consumer, backlog: Backlog) -> dict:
    """The figures of one drain, of which `equal` says whether they count."""
    try:
        figures = consumer.drain(backlog)
        if consumer.fills_target:
            figures["equal"] = consumer.is_equal(backlog)
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
        in_turns(title, backlog, rounds, who, results)


def in_turns(title: str, backlog: Backlog, rounds: int, who: list, results: Results) -> None:
    for number in range(1, rounds + 1):
        for consumer in who:
            if number > 1 and consumer.once:
                continue
            results.add({"workload": title, "round": number, "who": consumer.who, **drain(consumer, backlog)})


def measure_copies(options: argparse.Namespace, results: Results) -> None:
    """A whole database: into another one, at rest and under load; into the archive, and out of it."""
    who = consumers(options, COPIERS) if "clone" in options.copies else []
    base = "base" in options.copies and "base" in options.measure
    if not who and not base:
        return
    with Servers() as servers:
        terminal.step("making the database")
        original = Original(servers, options.scale)

        def title(name: str, **further) -> str:
            results.workloads[name] = {**original.facts, **further}
            return name

        if who:
            for original.rate in dict.fromkeys((0, options.rate)):
                name = f"clone at {original.rate}/s" if original.rate else "clone"
                in_turns(title(name, pgcopydb=copiers.version()), original, options.rounds, who, results)
            original.rate = 0
        if base:
            in_turns(title("base"), original, options.rounds, bases.who(bases.AT_REST, options.limit), results)
            terminal.step("making the log")
            transactions = bases.write_log(original)
            in_turns(title("replay", transactions=transactions), original, options.rounds, bases.who(bases.WITH_LOG, options.limit), results)


def measure(options: argparse.Namespace) -> Results:
    results = Results.begin(options.json, terminal.line)
    who = consumers(options, CONSUMERS)
    if who:
        for load in options.workloads:
            measure_backlog(load, sizes(options.scale), options.rounds, who, results)
    measure_copies(options, results)
    # What copies a database brings nothing else with it.
    if not options.workloads:
        return results
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
