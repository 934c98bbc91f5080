"""Facts of the pair: a peer may open as many streams as there are numbers."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="the number of streams of one connection has no limit",
    symptom="one user can open 65,536 streams on one connection, each with a handler",
    question="full",
    references=("sing-vmess, all versions: all 65,536 ids can be open at a time",),
    minimal="a:open a:new:1:echo a:new:2:echo a:new:3:echo a:new:4:echo a:new:5:echo a:close",
    fails=("bounds",),
)
