"""Facts of the pair: an End removes a stream while its handler runs."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="an End puts the stream out of reach of the cleanup",
    symptom="a download that its peer has ended goes on, even after its connection has gone",
    question="peer_ended",
    references=(
        "sing-vmess, all versions: one goroutine and one socket stay as long as the destination",
        "v2ray-core 4.34, run: the download goes on after the End; #691 (2021-02-20) not merged",
        "Xray-core #1417, 3e4e0503 (2022-12-09): fixed there",
    ),
    minimal="a:open a:new:1:linger a:end:1 a:close",
    fails=("tasks",),
)
