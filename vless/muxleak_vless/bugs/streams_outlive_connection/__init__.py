"""Facts of the pair: streams outlive their connection."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="streams that the peer did not end outlive their connection",
    symptom="a handler stays behind for every stream that was open when its connection closed",
    question="release",
    references=("sing-vmess 9b63475 (2022-09-16), the first mux server; until d70afe4",),
    minimal="a:open a:new:1:echo a:close",
    fails=("tasks",),
)
