"""The receive loop spins while a stream is full: facts of the pair."""

from vless.bugs import Facts

FACTS = Facts(
    title="the receive loop spins while a stream is full",
    symptom="one stream that nobody reads takes a whole processor",
    question="deliver",
    references=("yamux #176 (open): a proposed fix of a lost wake-up that spins in the same way",),
    witness="a:open a:new:1:deaf a:data:1+300 a:close",
    fails=("quiet",),
)
