"""The properties that every case must keep, and the violations of a run."""

from __future__ import annotations

from typing import NamedTuple

CASE_PROPERTIES = {
    "tasks": "after the close, the tasks that the connection started are gone",
    "timers": "after the close, no timer of the connection is armed",
    "transports": "after the close, no transport, server or generator of the connection is left",
    "cleanup": "each resource that was opened is cleaned up exactly once",
    "data": "nothing that was accepted before an orderly end is lost",
    "exceptions": "no exception goes unretrieved, and no user sees an unexpected one",
    "close": "a close returns within its bound",
    "slots": "no slot, credit or entry stays taken, and nobody waits while one is free",
    "quiet": "the loop settles",
}
"""The properties by name; `CaseViolation.property` is one of the names."""


class CaseViolation(NamedTuple):
    """One violated property.

    Attributes:
        property: a key of `CASE_PROPERTIES`.
        detail: the expected and the found value.
    """

    property: str
    detail: str

    def __str__(self) -> str:
        return f"{self.property}: {self.detail}"


def violated(violations: list[CaseViolation]) -> tuple[str, ...]:
    """Return the names of the violated properties, in the order of `CASE_PROPERTIES`."""
    found = {each.property for each in violations}
    return tuple(name for name in CASE_PROPERTIES if name in found)


class CaseViolationError(AssertionError):
    """A sequence violated properties of a case.

    Args:
        violations: the violations.
    """

    def __init__(self, violations: list[CaseViolation]) -> None:
        self.violations = violations
        lines = [f"violated: {name}: {CASE_PROPERTIES[name]}" for name in violated(violations)]
        super().__init__("\n".join([*lines, *(f"  {each}" for each in violations)]))
