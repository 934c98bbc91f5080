"""Every frame for an unknown stream starts a task: facts of the pair."""

from vless.bugs import Facts

FACTS = Facts(
    title="each frame for an unknown stream starts a task that waits for the peer",
    symptom="1.2 MB of frames from a peer that does not read left 127,000 goroutines",
    question="unknown",
    references=("sing-vmess, all versions: 200,000 such frames left 49,000 to 127,000 goroutines",),
    witness="a:open a:data:9+5~2 a:close",
    fails=("bounds",),
    needs_gap=True,
)
