"""A peer may open as many streams as there are numbers: facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="nothing bounds the streams of one connection",
    symptom="one user can open 65,536 streams on one connection, each with a handler",
    question="full",
    references=("sing-vmess, all versions: all 65,536 ids can be open at a time",),
    minimal="a:open a:new:1:echo a:new:2:echo a:new:3:echo a:new:4:echo a:new:5:echo a:close",
    fails=("bounds",),
)
