"""Facts of the pair: a peer that has vanished is waited for."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the server waits for ever for a peer that has vanished",
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
