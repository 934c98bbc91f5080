"""Output of ``muxleak hunt``: findings in text and JSON, and the line that measures each again."""

# A finding of a hunt is a claim about somebody else's server, so it comes with the means to check
# it: the steps in words, the stacks that grow, and a command line that measures the same sequence
# again. That line has the options which say which server it is and how long it is waited for, as
# far as they were given; the options of the search itself are left out, since a replay searches
# nothing.
#
# Three things are shown and are no findings: growth that the server ends by itself ("no leak"), a
# suspicion that was not measured to the end, and sequences that left only what a known finding
# explains.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from muxleak_scenarios.cli import render
from muxleak_scenarios.hunt.counters import DESCRIPTORS, GOROUTINES, THREADS
from muxleak_scenarios.hunt.stacks import parted, readable

if TYPE_CHECKING:
    from pathlib import Path

    import click
    from rich.console import Console
    from rich.table import Table

    from muxleak_scenarios.cli.params import Listen
    from muxleak_scenarios.hunt.findings import HuntOutcome
    from muxleak_scenarios.hunt.hunt import HuntProgress, HuntResult
    from muxleak_scenarios.hunt.stacks import Stack

_TARGET = ("user", "pprof", "v2ray-stats", "pid", "command", "destinations", "patience", "idle")
"""Options of a hunt that the line which measures again repeats."""
_WHY = {
    "time": "the time is up",
    "connections": "all connections are used up",
    "stopped": "stopped",
    "known": "nothing is left to try without what is known",
    "died": "the server is dead",
    "trouble": "the hunt could not go on",
}
_KIB = 1024
_BARE = (DESCRIPTORS, THREADS, GOROUTINES)
"""Stacks that stand for a mere number."""


class Again(NamedTuple):
    """The command line that measures a sequence again, without that sequence.

    Attributes:
        words: the command and its options.
        noun: the name of one of the server's tasks: "goroutine" or "task".
    """

    words: tuple[str, ...]
    noun: str

    @classmethod
    def of(cls, ctx: click.Context, address: Listen) -> Again:
        """Return the line with the options that were given."""
        words = ["hunt", str(address)]
        for parameter in ctx.command.params:
            name = parameter.opts[0].removeprefix("--")
            value = ctx.params.get(parameter.name or "")
            # Compared as text: the value of --user is a UUID, and its default the text of one. The
            # line must repeat no option that was not given, or it would outlive a change of the
            # default.
            if name not in _TARGET or value is None or str(value) == str(parameter.default):
                continue
            for each in value if isinstance(value, tuple) else (value,):
                words += [f"--{name}", str(each)]
        if ctx.params["owned"]:
            words.append("--i-own-this-server")
        # The page /debug/tasks is that of this package's own monitor, whose servers have tasks.
        goroutines = all("/debug/tasks" not in url for url in ctx.params["pprof"])
        return cls(tuple(words), "goroutine" if goroutines else "task")

    def line(self, finding: HuntOutcome) -> str:
        """Return the command line that measures a finding again."""
        return render.command(*self.words, "--replay", str(finding.sequence))


def progress_in_words(status: HuntProgress) -> str:
    """Return the progress of a hunt in words."""
    best = "" if status.shortest is None else f", shortest {status.shortest} steps"
    found = f", {status.findings} found" if status.findings else ""
    run = f"{status.connections:,} connections, {status.measurements:,} measurements"
    return f"{run}{found}{best}: {status.doing}"


def to_json(
    result: HuntResult, address: Listen, seed: int, path: Path | None, again: Again
) -> dict[str, Any]:
    """Return plain data."""
    return {
        "server": str(address),
        "seed": seed,
        "ended": result.ended,
        "trouble": result.trouble or None,
        "looks": result.measurements,
        "measured": not result.unmeasured,
        "looks_without_rest": result.unsettled,
        "connections": result.connections,
        "bytes_sent": result.sent,
        "seconds": round(result.seconds, 1),
        "gone_when_waited_for": result.unsure,
        "found": len(result.findings),
        "findings": [_to_json(each.outcome, again) for each in result.findings],
        "passing": [_to_json(each, again) for each in result.passing],
        "suspicion": None if result.suspicion is None else _to_json(result.suspicion, again),
        "looks_that_left_the_same": result.explained,
        "file": None if path is None else str(path),
    }


def _to_json(finding: HuntOutcome, again: Again) -> dict[str, Any]:
    return {**finding.to_json(), "replay": again.line(finding)}


def show(
    console: Console, result: HuntResult, address: Listen, path: Path | None, again: Again
) -> None:
    """Print the findings, or that there are none, and then the statistics of the hunt."""
    for number, found in enumerate(result.findings, 1):
        finding = found.outcome
        title = Text.assemble((f"{number}  ", render.QUIET), (headline(finding, again), render.BAD))
        console.print(title)
        console.print()
        render.body(console, render.sequence(finding.sequence))
        console.print()
        _show_finding(console, finding)
        console.print("  again:")
        render.copyable(console, again.line(finding), 4)
        console.print()
    ran = (
        f"{render.plural(result.measurements, 'measurement')}, "
        f"{render.plural(result.connections, 'connection')}, "
        f"{result.sent / 1e6:,.1f} MB sent, in {result.seconds:.0f} s"
    )
    why = f"; {_WHY[result.ended]}" if result.ended in _WHY else ""
    if result.findings:
        what = Text(f"{len(result.findings)} found", render.BAD)
    elif result.unmeasured:
        what = Text("could not measure, so nothing is known", render.BAD)
    else:
        what = Text("nothing found", render.GOOD)
    console.print(Text.assemble(what, f" in {address}: {ran}{why}"))
    _show_rest(console, result, again)
    if path is not None:
        render.copyable(console, f"written to {path}, for --known", 0)


def _show_rest(console: Console, result: HuntResult, again: Again) -> None:
    """Print the things that are no findings."""
    for each in result.passing:
        console.print(Text(f"no leak: {headline(each, again)}"))
        render.copyable(console, again.line(each), 4)
    if result.suspicion is not None:
        seen = "not measured to the end, and so no finding"
        console.print(Text(f"{seen}: {headline(result.suspicion, again)}"))
        render.copyable(console, again.line(result.suspicion), 4)
    if result.explained:
        explained = render.plural(result.explained, "measurement")
        console.print(f"{explained} with the growth of a known finding only")
    if result.unsure:
        unsure = render.plural(result.unsure, "suspicion")
        # Growth that looked like a leak, until the full measurement waited for its end.
        console.print(f"{unsure} that ended within the patience")
    if result.unmeasured and not result.unsettled:
        console.print("no measurement came to its end; give more --time")
    if result.unsettled:
        console.print(
            f"{result.unsettled} of {render.plural(result.completed, 'measurement')} said nothing: "
            "the counts did not stand still; hunt a server that nobody else uses, or give less "
            "--patience"
        )
    if result.trouble:
        console.print(Text(result.trouble, render.BAD))


def headline(finding: HuntOutcome, again: Again) -> str:
    """Return the growth of each repetition in one line."""
    if finding.died:
        return f"the server {_died(finding.died)}"
    growth = finding.growth
    (tasks, tasks_after), (fds, fds_after) = growth.tasks, growth.descriptors
    words = []
    # Zero of one kind is left out beside the other, and shown where there is nothing else to show:
    # growth of memory alone.
    if tasks or tasks_after or not (fds or fds_after):
        words.append(render.plural(tasks, again.noun))
    if fds or fds_after:
        words.append(render.plural(fds, "descriptor"))
    about = "" if growth.exact else "about "
    held = f"{about}{' and '.join(words)} per repetition"
    if finding.gone:
        return f"{held}, all gone after {finding.gone:.1f} s"
    after = " and ".join(
        f"{count:,}" for count, shown in ((tasks_after, tasks), (fds_after, fds)) if shown or count
    )
    return f"{held}; {after or 0} after the destinations have gone"


def _died(died: str) -> str:
    return f"died of it: it {died}"


def _show_finding(console: Console, finding: HuntOutcome) -> None:
    growth = finding.growth
    if growth.leaks:
        render.body(console, _blocked(finding))
        console.print()
    facts: dict[str, str | list[str]] = {}
    if not finding.died:
        facts["freed by"] = finding.freed
    # Memory falls if garbage is collected meanwhile, which says nothing about the sequence.
    if growth.memory is not None and growth.memory > 0:
        facts["memory"] = f"about {growth.memory / _KIB:,.0f} KiB per repetition"
    if finding.after and finding.shrunk:
        facts["found"] = f"shrunk and measured after {finding.after:.0f} s"
    if not finding.shrunk:
        facts["note"] = "perhaps not the shortest"
    if finding.log:
        facts["its log"] = list(finding.log)
    render.body(console, render.facts(facts))
    console.print()


def _blocked(finding: HuntOutcome) -> Table:
    grid = render.table("each", "after", "blocked in", fixed=("each", "after"))
    growth = finding.growth
    for stack in sorted({*growth.held, *growth.kept}, key=_order):
        name = Text(f"({stack[0]})", render.QUIET) if stack in _BARE else Text(place(stack))
        grid.add_row(f"{growth.held[stack]:,}", f"{growth.kept[stack]:,}", name)
    return grid


def _order(stack: Stack) -> tuple[bool, Stack]:
    # Descriptors last: the stacks say where the bug is.
    return stack == DESCRIPTORS, stack


def chain(stack: Stack) -> str:
    """Return a stack on one line, the innermost function first, without the paths of packages."""
    # The path of a Go package, such as github.com/sagernet/sing-vmess, is longer than its function,
    # and the same for most of them.
    return " < ".join(name.rpartition("/")[2] for name in readable(stack))


def place(stack: Stack) -> str:
    """Return the place where a task waits, and on a second line its creation site if known."""
    functions, starter = parted(stack)
    return chain(functions) + (f"\nmade at {starter}" if starter else "")
