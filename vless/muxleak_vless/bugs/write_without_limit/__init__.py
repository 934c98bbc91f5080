"""Facts of the pair: a write to a peer that does not read has no limit."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a write waits for ever for a peer that does not read",
    symptom="a peer that stops reading holds a handler, its destination and the connection",
    question="stalled",
    references=(
        "sing-vmess, all versions: connections have no deadlines, and streams refuse them",
    ),
    minimal="a:open a:stall a:new:1:flood a:close",
    fails=("stalls",),
)
