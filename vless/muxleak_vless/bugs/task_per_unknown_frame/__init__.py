"""Facts of the pair: every frame for an unknown stream starts a task."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="each frame for an unknown stream starts a task that waits for the peer",
    symptom="1.2 MB of frames from a peer that does not read: up to 127,000 goroutines at a time",
    question="unknown",
    references=(
        "sing-vmess, all versions: 49,000 to 127,000 goroutines for 200,000 such frames",
        "sing-box 1.14.4, run: up to 20,452 goroutines; 1.12.10: up to 52,035; V2Ray 4.34: 95",
    ),
    minimal="a:open a:data:9+5~2 a:close",
    fails=("bounds",),
    needs_gap=True,
)
