"""Facts of the pair: a write of more than 65,535 bytes is one frame."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a long write breaks the framing of the connection",
    symptom="the peer loses its place in the bytes, and every stream with it",
    question="split",
    references=("sing-vmess, all versions: 70,000 bytes were announced as 4,464",),
    minimal="a:open a:new:1:bulk a:close",
    fails=("data",),
)
