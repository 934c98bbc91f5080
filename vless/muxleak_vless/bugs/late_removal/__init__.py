"""Facts of the pair: the old stream's removal deletes the new stream."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the removal of an old stream deletes the new one",
    symptom="a stream that took over an id is out of reach; its handler stays behind",
    question="forget",
    references=(
        "Xray-core and v2ray-core: Remove(id) by the old handler deletes the new entry",
        "v2ray-core 4.34, run: the next frame for the new stream is answered as unknown",
    ),
    minimal="a:open a:new:1:echo a:new:1:echo a:close",
    fails=("tasks",),
)
