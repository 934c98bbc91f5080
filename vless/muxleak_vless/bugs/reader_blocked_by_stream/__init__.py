"""Facts of the pair: one unread stream blocks the whole connection."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="one unread stream blocks its connection, and hides the end of it",
    symptom="a connection with one stuck handler is never cleaned up, though its peer has gone",
    question="deliver",
    references=(
        "sing-vmess, all versions: the receive loop does not return after the peer has closed",
        "sing-box 1.14.4, run: four goroutines and two descriptors per unread destination",
        "Xray-core blocks there too, until an idle timer of the outbound ends the wait",
    ),
    minimal="a:open a:new:1:deaf a:data:1+5 a:close",
    fails=("tasks", "cleanup", "transports", "timers"),
)
