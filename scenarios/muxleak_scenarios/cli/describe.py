"""Results in words: what a step does, what a version did on a sequence."""

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
    """Say what a step does, and what happens before the next."""
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
    """Say what a sequence left behind: "clean", "leaks 1 until the server ends", ..."""
    words = []
    left, for_ever = outcome.left, outcome.left_after_end
    if left and not for_ever:
        words.append(f"leaks {left} until the server ends")
    elif left:
        words.append(
            f"leaks {left} for ever" if left == for_ever else f"leaks {left}, {for_ever} for ever"
        )
    elif "tasks" in outcome.violated:
        words.append("leaks until a later step")
    if "cleanup" in outcome.violated:
        words.append(_cleanups(outcome))
    rest = [name for name in outcome.violated if name not in {"tasks", "cleanup"}]
    words += [f"breaks {name!r}" for name in rest]
    return ", ".join(words) or "clean"


def version_in_words(name: str) -> str:
    """Say what a version is: the first line of its docstring."""
    text = inspect.getdoc(VERSIONS[name]) or ""
    return text.partition("\n\n")[0].replace("`", "").replace("\n", " ").rstrip(".")


def question_in_words(question: str) -> str:
    """Return a question of the life cycle, as it is asked there."""
    return (inspect.getdoc(getattr(Lifecycle, question)) or "").partition("\n\n")[0]


def _cleanups(outcome: SequenceOutcome) -> str:
    if not outcome.cleanups:
        return "never cleans up"
    if outcome.cleanups == _TWICE * outcome.connections:
        return "cleanup runs twice"
    return f"{outcome.cleanups} cleanups of {outcome.connections} connections"
