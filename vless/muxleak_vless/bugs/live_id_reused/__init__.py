"""Facts of the pair: a New on an id in use orphans the old stream, in all known servers."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="opening a stream under an id in use orphans the old one",
    symptom="goroutines and descriptors stay for ever; one authenticated user can use up all",
    question="id_reused",
    references=(
        "sing-vmess, all versions; sing-box 1.14.4 leaves two goroutines and one descriptor",
        "Xray-core and v2ray-core overwrite too; their idle timers end the orphan",
    ),
    minimal="a:open a:new:1:echo a:new:1:echo a:close",
    fails=("tasks",),
)
