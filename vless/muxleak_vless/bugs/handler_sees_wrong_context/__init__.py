"""Facts of the pair: handlers watch a context that outlives their connection."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="handlers watch a context that outlives their connection",
    symptom="the work of a handler for its connection goes on until the server ends",
    question="handler_context",
    references=(
        "sing-vmess d70afe4 (2022-09-23) to v0.1.12: handlers were given the caller's context",
        "Xray-core #5100, 4740ba24 (2025-09-07): the same mistake in the reverse portal",
    ),
    minimal="a:open a:new:1:loyal a:close",
    fails=("tasks",),
)
