"""Facts of the pair: the cleanup stops at the first stream that it cannot release."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the cleanup stops at the first stream whose release raises",
    symptom="one handler that cannot be cancelled leaves all the other handlers of its connection",
    question="release_failed",
    references=(
        "the reference of muxleak 0.1.0, run: 20 streams, no descriptor free: 39 tasks stayed",
    ),
    minimal="a:open a:new:1:fragile a:new:2:echo a:close",
    fails=("tasks",),
)
