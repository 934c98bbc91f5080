"""A temporary fix by a user, probably: the watcher deleted."""

from muxleak_vless.bugs import WrongFix
from muxleak_vless.bugs.cleanup_runs_twice.buggy import MayCleanUp
from muxleak_vless.versions import NoWatcher

FACTS = WrongFix(
    title="without a watcher, the end of the server does not end its connections",
    references=("sing-box issue #2421, probably a user's temporary fix: d70afe4 without it (P-A)",),
    minimal="a:open cancel a:close",
    fails=("shutdown",),
)


class WithoutWatcher(NoWatcher, MayCleanUp):
    """Only the receive loop cleans up, when its peer has closed."""
