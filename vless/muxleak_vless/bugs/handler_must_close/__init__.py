"""Facts of the pair: closing a stream is left to its handler."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a handler that returns without closing leaves its stream open",
    symptom="streams stay in the table, and the peer never receives their end",
    question="handler_ended",
    references=(
        "sing-vmess, all versions; in sing-box 1.10 every failed dial was such a handler",
        "sing-box 1.11 closes the connection of a stream whose dial fails",
    ),
    minimal="a:open a:new:1:echo a:end:1 a:close",
    fails=("answers",),
)
