"""The first fix proposed for sing-box issue #2421 (a deferred cancel): facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the cleanup runs twice for every connection",
    symptom="what a connection holds is given back twice: the server's count of connections"
    " falls below zero",
    question="may_clean_up",
    references=(
        "sing-box issue #2421: the first proposed fix, a deferred cancel of a child context",
        "sing-vmess d70afe4 (2022-09-23): twice already when the server ended",
    ),
    minimal="a:open a:close",
    fails=("cleanup",),
)
