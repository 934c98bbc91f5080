"""One stream that nobody reads blocks the whole connection: facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="one stream that nobody reads blocks its connection, and hides its end",
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
