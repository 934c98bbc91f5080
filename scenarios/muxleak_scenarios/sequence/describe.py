"""Descriptions of steps, outcomes, versions and questions, in words."""

# A line of steps is short enough to be copied and to shrink; these are the words for people.
# Versions and questions are described by the first paragraph of their docstrings, so that a command
# cannot say anything else than the source does: those docstrings are output, and must read well on
# a terminal.

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from muxleak_scenarios.sequence.steps import DESTINATIONS
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from muxleak_scenarios import SequenceOutcome, Step

_VERBS = {
    "open": "connects and sends a request header with the mux command",
    "connect": "connects and sends nothing",
    "header": "sends its request header",
    "bad": "connects and sends a bad request header ({what})",
    "new": "opens stream {stream}, served by {server}",
    "udp": "opens UDP stream {stream}, served by {server}",
    "xudp": "opens UDP stream {stream} with a Global ID, served by {server}",
    "data": "sends {size} bytes on stream {stream}",
    "keep": "sends an empty frame on stream {stream}",
    "packet": "sends a packet of {size} bytes elsewhere on stream {stream}",
    "end": "ends stream {stream}",
    "reset": "resets stream {stream}",
    "keepalive": "sends a keep-alive frame",
    "padding": "sends a keep-alive frame with padding",
    "stall": "stops reading",
    "resume": "reads again",
    "drip": "sends byte by byte from now on",
    "junk": "sends a malformed frame ({what})",
    "cut": "sends the first {size} bytes of a frame",
    "close": "closes the connection",
    "half": "closes its direction of the connection",
    "abort": "resets the connection",
    "cancel": "the server's context ends, as in a reload",
    "wait": "nothing is sent for four idle intervals",
}
_TWICE = 2


def step_in_words(step: Step) -> str:
    """Return the meaning of a step, and of the gap after it."""
    # Handlers exist in our own servers only; a destination is dialled by any server.
    kind = "a destination" if step.what in DESTINATIONS else "a handler"
    server = f"{kind} of the kind {step.what.removeprefix('@')!r}"
    text = _VERBS.get(step.verb, step.verb).format(
        stream=step.stream, what=step.what, size=step.size, server=server
    )
    if step.connection:
        text = f"client {step.connection} {text}"
    if step.network:
        text = f"{text} [arrivals: {step.network.hex(' ')}]"
    if step.gap is None:
        return text
    if step.gap == 0:
        return f"{text}; in the same instant:"
    return f"{text}; {step.gap} loop iteration{'s' * (step.gap > 1)} later:"


def outcome_in_words(outcome: SequenceOutcome) -> str:
    """Return the outcome of a run, such as "clean" or "leaks 1 until the server ends".

    A leak that ends with the server is told from one that stays for ever: the first is repaired by
    a restart of the service within its process, the second is not.
    """
    words = []
    left, for_ever = outcome.left, outcome.left_after_end
    if left and not for_ever:
        words.append(f"leaks {left} until the server ends")
    elif left:
        words.append(
            f"leaks {left} for ever" if left == for_ever else f"leaks {left}, {for_ever} for ever"
        )
    # Nothing is left at the end, but a task outlived its connection: a later step ended it.
    elif "tasks" in outcome.violated:
        words.append("leaks until a later step")
    if "cleanup" in outcome.violated:
        words.append(_cleanups(outcome))
    rest = [name for name in outcome.violated if name not in {"tasks", "cleanup"}]
    words += [f"breaks {name!r}" for name in rest]
    return ", ".join(words) or "clean"


def version_in_words(name: str) -> str:
    """Return the description of a version: the first paragraph of its docstring."""
    text = inspect.getdoc(VERSIONS[name]) or ""
    return text.partition("\n\n")[0].replace("`", "").replace("\n", " ").rstrip(".")


def question_in_words(question: str) -> str:
    """Return a question of the life cycle: the first paragraph of its docstring."""
    return (inspect.getdoc(getattr(Lifecycle, question)) or "").partition("\n\n")[0]


def _cleanups(outcome: SequenceOutcome) -> str:
    # The common cases have names, which say more than the numbers.
    if not outcome.cleanups:
        return "never cleans up"
    if outcome.cleanups == _TWICE * outcome.connections:
        return "cleanup runs twice"
    return f"{outcome.cleanups} cleanups of {outcome.connections} connections"
