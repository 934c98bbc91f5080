"""A peer that vanished is waited for: facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a peer that has vanished is waited for",
    symptom="connections of clients that lost their network pile up, some of them for ever",
    question="idle",
    references=(
        "sing-vmess, all versions: no idle timer; TCP keep-alive is all there is",
        "Xray-core #5110, 9f5dcb15 (2025-09-10): the idle timer of the server's side",
    ),
    minimal="a:open wait",
    fails=("tasks", "cleanup", "transports"),
    aliases=("5110",),
)
