"""Facts of the pair: a refused connection stays open."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a refused connection stays open, even after its peer has closed it",
    symptom="each peer with a bad header holds a descriptor and a task until the idle limit",
    question="hang_up",
    references=("v2ray-core 4.34, run: after a fatal frame the connection stayed open, unread",),
    minimal="a:bad:user a:close",
    fails=("tasks", "transports", "timers"),
)
