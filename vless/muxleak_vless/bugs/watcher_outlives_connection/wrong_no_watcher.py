"""The temporary fix of a user: no watcher."""

from muxleak_vless.bugs import WrongFix
from muxleak_vless.bugs.cleanup_runs_twice.buggy import MayCleanUp
from muxleak_vless.versions import NoWatcher

FACTS = WrongFix(
    title="nothing watches, so nothing hears of the end of the server",
    references=("sing-box issue #2421, probably a user's temporary fix: d70afe4 without it (P-A)",),
    minimal="a:open cancel a:close",
    fails=("shutdown",),
)


class WithoutWatcher(NoWatcher, MayCleanUp):
    """The receive loop alone cleans up, when its peer has closed."""
