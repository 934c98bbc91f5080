"""A refused connection stays open: facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a connection that was refused stays open, even after its peer has closed it",
    symptom="each peer with a bad header holds a descriptor and a task until the idle limit",
    question="hang_up",
    references=("v2ray-core 4.34, run: after a fatal frame the connection stayed open, and deaf",),
    minimal="a:bad:user a:close",
    fails=("tasks", "transports", "timers"),
)
