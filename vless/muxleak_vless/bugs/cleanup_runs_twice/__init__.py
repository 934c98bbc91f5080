"""Facts of the pair: the first fix proposed for sing-box issue #2421, a deferred cancel."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the cleanup runs twice for every connection",
    symptom="resources of a connection are released twice: the server's count of connections falls"
    " below zero",
    question="may_clean_up",
    references=(
        "sing-box issue #2421: the first proposed fix, a deferred cancel of a child context",
        "sing-vmess d70afe4 (2022-09-23): twice already when the server ended",
    ),
    minimal="a:open a:close",
    fails=("cleanup",),
)
