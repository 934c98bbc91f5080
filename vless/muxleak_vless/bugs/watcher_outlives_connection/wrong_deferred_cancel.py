"""The first proposed fix: a context per connection, whose deferred cancel wakes the watcher."""

from muxleak_vless.bugs import WrongFix
from muxleak_vless.bugs.cleanup_runs_twice.buggy import MayCleanUp

FACTS = WrongFix(
    title="the watcher cleans up again after the receive loop has cleaned up",
    references=(
        "sing-box issue #2421, the first proposed fix: d70afe4 with a deferred cancel (P-B)",
    ),
    minimal="a:open a:close",
    fails=("cleanup",),
)


class DeferredCancel(MayCleanUp):
    """The end of the receive loop wakes the watcher, and both clean up."""
