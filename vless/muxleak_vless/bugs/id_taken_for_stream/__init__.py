"""Facts of the pair: a stream is identified by its number alone."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a stream that has lost its id ends the stream that has the id now",
    symptom="a new stream breaks as soon as the old stream of the same number is done",
    question="owns",
    references=(
        "sing-vmess, all versions: the second stream broken in 50 of 50 reuses (sing-box 1.14.4)",
        "v2ray-core: the End of the old stream reaches the peer under the new one's number",
    ),
    minimal="a:open a:new:1:echo a:new:1:echo a:close",
    fails=("data",),
)
