"""Failures of the checks themselves, which must not change the outcome of the checked code."""

# A check examines objects of other people, so it can meet one that nobody thought of. Then it must
# not raise, since its error would take the place of the outcome of a test, and must not be silent,
# since a check that did not happen looks like one that found nothing. So it is logged as an error,
# which Python prints to standard error where nobody has set up logging.

import logging

from muxleak.introspect.names import safe_text, type_name

log = logging.getLogger("muxleak")


def failed(subject: str, error: Exception) -> str:
    """Log that a check failed to do its work.

    Args:
        subject: the checked block, function or test.
        error: the exception of the check.

    Returns:
        The sentence that was logged.
    """
    reason = f"{type_name(error)}: {safe_text(error, str)}"
    line = (
        f"muxleak could not check {subject}: {reason}; the outcome is the one without the check;"
        " please report this error of muxleak"
    )
    log.error("%s", line, exc_info=error)
    return line
