"""Facts of the pair: the end of the server does not wake the receive loop."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the end of the server does not wake the receive loop",
    symptom="after a reload, the old connections stay open until their peers close them",
    question="end_link",
    references=(
        "sing-vmess, all versions: the receive loop returns only when the peer acts",
        "sing-box closes its listeners at shutdown and keeps no list of what they accepted",
        "sing-box 1.14.4, run: 50 of 50 connections open after a SIGHUP",
    ),
    minimal="a:open cancel a:close",
    fails=("shutdown",),
)
