"""Facts of the pair: the receive loop polls while a stream is full."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the receive loop spins while a stream is full",
    symptom="one stream whose handler does not read takes a whole processor",
    question="deliver",
    references=(
        "yamux #176 (open): a proposed fix of a lost wake-up, which spins",
        "skywire #3923 (2026-08-14): a read of yamux v0.1.2 spins after the session's shutdown",
    ),
    minimal="a:open a:new:1:deaf a:data:1+300 a:close",
    fails=("quiet",),
)
