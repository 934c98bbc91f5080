"""The messages that generated clients send: given as a list, by a strategy, or by a client."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from muxleak.extras import need_hypothesis

if TYPE_CHECKING:
    from muxleak.server.connection import UserClient

MOST_MESSAGES = 256  # of a list: the number of a message takes one byte
_DRAWN = 64  # examples of a strategy


class ClientInput(NamedTuple):
    """The bytes that clients send: messages, or those of a client that the user has written.

    Attributes:
        messages: the messages.
        client: the user's client; None if there is none.
    """

    messages: tuple[bytes, ...]
    client: UserClient | None = None


def client_input(messages: Any, seed: int = 0) -> ClientInput:
    """Return what a user has given as messages.

    Args:
        messages: an iterable of bytes, a Hypothesis strategy of bytes, or an async function with
            one argument, the `ClientStreams` of a connection.
        seed: of the examples that are drawn from a strategy.

    Raises:
        TypeError: it is something else.
        ValueError: there are too many.
        ImportError: a strategy was given by something else than Hypothesis.
    """
    if inspect.iscoroutinefunction(messages):
        return ClientInput((), messages)
    if type(messages).__module__.partition(".")[0] == "hypothesis":
        found = _examples(messages, seed)
    elif isinstance(messages, bytes | str) or not hasattr(messages, "__iter__"):
        raise TypeError(
            f"expected messages as a list of bytes, a Hypothesis strategy or an async function "
            f"(connection), got {messages!r}; a single message is [b'...']"
        )
    else:
        found = list(messages)
    for each in found:
        if not isinstance(each, bytes):
            advice = f"; write b{each!r}" if isinstance(each, str) else ""
            raise TypeError(f"expected messages of bytes, got {each!r}{advice}")
    if len(found) > MOST_MESSAGES:
        raise ValueError(f"expected at most {MOST_MESSAGES} messages, got {len(found)}")
    return ClientInput(tuple(found))


def _examples(strategy: Any, seed: int) -> list[Any]:
    """Return examples of a strategy, the simplest first; the same for the same seed."""
    need_hypothesis("check_server(messages=strategy)")
    import hypothesis

    found: dict[Any, None] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_DRAWN,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: Any) -> None:
        found[example] = None

    collect()
    # A smaller number is a simpler message for the shrinker.
    return sorted(found, key=lambda each: (len(each), each)) if _are_bytes(found) else list(found)


def _are_bytes(found: Any) -> bool:
    return all(isinstance(each, bytes) for each in found)


def escaped(message: bytes) -> str:
    """Return the text that stands for a message on a command line and in a replay file."""
    return repr(message)[2:-1].replace("\\'", "'")


def unescaped(text: str) -> bytes:
    r"""Return the bytes that a text means; other characters than ASCII mean their UTF-8.

    Args:
        text: with the escapes of Python's bytes, such as ``\n`` and ``\xff``.

    Raises:
        ValueError: an escape means nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # for an unknown escape Python only warns
        try:
            return text.encode().decode("unicode_escape").encode("latin-1")
        except (UnicodeError, DeprecationWarning) as error:
            raise ValueError(f"{text!r} has an escape that means nothing: {error}") from None
