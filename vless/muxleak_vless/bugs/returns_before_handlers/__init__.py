"""Facts of the pair: the server does not wait for its handlers."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the server does not wait for the handlers that it has cancelled",
    symptom="a handler that swallows its first cancellation gets no second one, and stays",
    question="join",
    references=(
        "sing-vmess 8cd5f17 (2024-12-30): returns before the watcher has closed the streams",
    ),
    minimal="a:open a:new:1:stubborn a:close",
    fails=("tasks",),
)
