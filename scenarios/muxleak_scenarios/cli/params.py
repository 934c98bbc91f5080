"""Parameter types and options that several commands share.

A function that reads a word returns its meaning, or raises `click.BadParameter` with a message that
names the values it takes.
"""

# Parameters are checked while click parses the command line, before a command runs. A search may
# take an hour, so a word that would fail at its end is refused at its beginning.
#
# click's own number types accept NaN and infinity as fractions: NaN is neither below nor above any
# bound, so a search with --time nan would never end. `Finite` refuses both, and a test holds that
# every option with a fraction uses it.
#
# Messages of click's ranges are formulas ("0 is not in the range x>=1."). `Whole` and `Finite` name
# the bound in words instead, and keep the ranges' own notation in the help.
#
# Completion functions return names only. A shell calls them at every press of the key, and they
# import the registry with every pair.

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

from muxleak import extras
from muxleak.monitor.endpoint import is_loopback
from muxleak_scenarios import Pair, SimTarget, TcpTarget, find_pair, load_pairs
from muxleak_scenarios.pairs.replay import SequenceReplay, find_subject
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from muxleak_scenarios import Target
    from muxleak_vless import Lifecycle

TARGETS = ("simulated", "tcp", "uvloop")
MAX_PORT = 0xFFFF

_Command = TypeVar("_Command", bound="Callable[..., Any]")


class Listen(NamedTuple):
    """An address: host and port, where port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True if only this machine can connect."""
        return is_loopback(self.host)


class Whole(click.IntRange):
    """A whole number within bounds, which the message about another value names."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that a word means."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"must be a whole number{_bounds(self)}, got {value}", param, ctx)


class Finite(click.FloatRange):
    """A number within bounds; no NaN, which is within all bounds, and no infinity."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that a word means."""
        number = math.nan
        with suppress(click.BadParameter):
            number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(
                f"must be a finite number{_bounds(self)}, such as 60 or 0.5; got {value}",
                param,
                ctx,
            )
        return number


def _bounds(kind: click.IntRange | click.FloatRange) -> str:
    """Return the bounds of a number in words, with a space before them."""
    if kind.max is not None:
        return f" from {kind.min:,} to {kind.max:,}"
    return f" above {kind.min:g}" if kind.min_open else f" of at least {kind.min:g}"


COUNT = Whole(min=1)
"""The type of a number of things: at least 1."""
POSITIVE = Finite(min=0, min_open=True)
"""The type of seconds, megabytes and such: above 0, and finite."""


class TargetChoice(NamedTuple):
    """A target of ``--target``; `virtual` is True if its time and network are simulated."""

    name: str
    make: Callable[[Lifecycle], Target]
    virtual: bool


def pair(word: str) -> Pair:
    """Return the pair that a word means."""
    try:
        return find_pair(word)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def served(word: str) -> SequenceReplay:
    """Return the server that VERSION or PAIR[/VARIANT] means, as a replay without steps."""
    try:
        return SequenceReplay(*find_subject(word, None), Sequence())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def counts(word: str) -> tuple[int, ...]:
    """Return the numbers of a list such as "1,10,100" in ascending order, each once."""
    # `isdecimal` is True for digits of every script, as `int` reads them; signs are refused.
    words = word.split(",")
    if not all(each.strip().isdecimal() and int(each) for each in words):
        raise click.BadParameter(f"expected numbers above 0, such as 1,10,100; got {word!r}")
    return tuple(sorted({int(each) for each in words}))


def listen(word: str) -> Listen:
    """Parse ``HOST:PORT`` or ``[IPV6]:PORT``."""
    host, _, port = word.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise click.BadParameter(
            f"expected HOST:PORT with a port of 0 to {MAX_PORT}, such as 127.0.0.1:8443; "
            f"got {word!r}"
        )
    return Listen(host.removeprefix("[").removesuffix("]"), int(port))


def complete_pair(_ctx: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    """Return the names of pairs that begin so, for a shell."""
    return _beginning(start, load_pairs())


def complete_subject(_ctx: click.Context, _parameter: click.Parameter, start: str) -> list[str]:
    """Return the pairs and versions that begin so, for a shell; after a slash, the variants."""
    name, slash, _ = start.partition("/")
    if not slash:
        return _beginning(start, (*load_pairs(), *VERSIONS, "fixed"))
    try:
        found = find_pair(name)
    except ValueError:
        return []
    # With the beginning as it was typed, even of a pair that it abbreviates: a shell drops every
    # completion that does not begin with the word.
    return _beginning(start, (f"{name}/{variant}" for variant in found.variants))


def complete_line(
    ctx: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """Return pairs and versions for the first word of a line, or else let the shell offer files."""
    if ctx.params.get(parameter.name or ""):
        return []
    names = complete_subject(ctx, parameter, start)
    return [CompletionItem(name) for name in names] or [CompletionItem(start, type="file")]


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().startswith(start.lower())]


def examples(*lines: str) -> str:
    """Return the epilog of a command's help, with its examples.

    Args:
        lines: command lines without the word ``muxleak``; a remark follows two spaces.
    """
    # A test runs the parser over every example, so that none can name an option that has gone.
    return "\n".join(["\b", "Examples:", *(f"  muxleak {line}" for line in lines)])


def need_hypothesis(use: str) -> None:
    """Check that Hypothesis is installed.

    Raises:
        click.UsageError: it is not; the message has the command that installs it.
    """
    try:
        extras.need_hypothesis(use)
    except ImportError as error:
        raise click.UsageError(str(error)) from None


def target(_ctx: click.Context, _parameter: click.Parameter | None, name: str) -> TargetChoice:
    """Return the target of a name; uvloop is imported for its own target only."""
    if name == "simulated":
        return TargetChoice(name, SimTarget, virtual=True)
    if name == "tcp":
        return TargetChoice(name, TcpTarget, virtual=False)
    try:
        new_loop = import_module(name).new_event_loop
    except ImportError:
        raise click.BadParameter("uvloop is not installed here: pip install uvloop") from None
    return TargetChoice(name, partial(TcpTarget, new_loop=new_loop), virtual=False)


def target_option(command: _Command) -> _Command:
    """Add the option ``--target`` to a command."""
    return click.option(
        "--target",
        type=click.Choice(TARGETS),
        default="simulated",
        show_default=True,
        callback=target,
        help="Network of the run: simulated on virtual time, or loopback TCP on asyncio or uvloop.",
    )(command)


def refuse(ctx: click.Context, use: str, *names: str) -> None:
    """Check that options which mean nothing here were not given.

    Args:
        ctx: the context of the command.
        use: the use of the command in which they mean nothing, for the message.
        names: the parameters that receive the options.

    Raises:
        click.UsageError: one was given.
    """
    for name in names:
        if is_given(ctx, name):
            option = next(each.opts[0] for each in ctx.command.params if each.name == name)
            raise click.UsageError(f"{option} means nothing for {use}; leave it out")


def is_given(ctx: click.Context, name: str) -> bool:
    """Return True if an option was given, and False if its value is the default."""
    # A default is not given, and so is never refused: only its source tells one from the other.
    source = ctx.get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


def json_option(command: _Command) -> _Command:
    """Add the option ``--json`` to a command, which receives it as `as_json`."""
    text = "Print JSON and nothing else."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def seed_option(command: _Command) -> _Command:
    """Add the option ``--seed`` to a command."""
    text = "Seed of the random sequences; the same seed gives the same run."
    return click.option("--seed", default=0, show_default=True, help=text)(command)
