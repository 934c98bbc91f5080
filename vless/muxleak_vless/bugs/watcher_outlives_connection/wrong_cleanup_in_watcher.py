"""The fix as committed: a context per connection, and the cleanup in the watcher only."""

from muxleak_vless.bugs import WrongFix
from muxleak_vless.bugs.cleanup_runs_twice.buggy import MayCleanUp
from muxleak_vless.bugs.new_after_cleanup.buggy import Admit
from muxleak_vless.versions import CleansUpInWatcherOnly

FACTS = WrongFix(
    title="a stream opened after the end of the server is never released",
    references=(
        "sing-vmess 8cd5f17 = v0.1.13 (2024-12-30), the fix as committed (V2)",
        "cancel, New, close: 1 goroutine left by 8cd5f17, 0 by d70afe4, which it repaired",
    ),
    minimal="a:open cancel~0 a:new:1:echo a:close",
    fails=("tasks",),
)


class CleanupInWatcher(CleansUpInWatcherOnly, MayCleanUp, Admit):
    """Only the watcher cleans up, and it runs once: streams opened after it stay."""
