"""Facts of the pair: padded metadata ends the connection."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="padding in a frame's metadata ends the whole connection",
    symptom="a KeepAlive with two bytes of padding ends every stream of its connection",
    question="tolerates",
    references=(
        "sing-vmess, all versions: padding in a KeepAlive or an End is read as an address",
        "v2ray-core 4.34, run: ignores it",
    ),
    minimal="a:open a:padding a:close",
    fails=("data",),
)
