"""Facts of the pair: the regression that the committed fix of issue #2421 introduced."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a stream opened while the server ends is never released",
    symptom="after a reload, a handler stays behind for a stream that arrived at that moment",
    question="admit",
    references=(
        "sing-vmess 8cd5f17 (2024-12-30): cleanup only in the watcher, which runs once",
        "yamux 24e7d75: the same question in another multiplexer",
    ),
    minimal="a:open cancel~0 a:new:1:echo a:close",
    fails=("tasks",),
    needs_gap=True,
)
