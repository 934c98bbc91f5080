"""Padded metadata ends the connection: facts of the pair."""

from vless.bugs import Facts

FACTS = Facts(
    title="padding in a frame's metadata ends the whole connection",
    symptom="a keep-alive of another implementation kills every stream",
    question="tolerates",
    references=(
        "sing-vmess, all versions: padding in a KeepAlive or an End is read as an address",
    ),
    witness="a:open a:padding a:close",
    fails=("data",),
)
