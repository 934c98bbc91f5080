"""A stream is known by its number alone: facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a stream that has lost its id ends the one that has it now",
    symptom="a new stream breaks as soon as the old one of the same number is done",
    question="owns",
    references=(
        "sing-vmess, all versions: the second stream broken in 50 of 50 reuses (sing-box 1.14.4)",
        "v2ray-core: the End of the old stream reaches the peer under the new one's number",
    ),
    minimal="a:open a:new:1:echo a:new:1:echo a:close",
    fails=("data",),
)
