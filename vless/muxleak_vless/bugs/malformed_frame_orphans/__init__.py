"""A malformed New overwrites a living stream: facts of the pair."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a malformed New on a living id orphans the stream that has it",
    symptom="one handler stays for ever after a peer has broken one byte of one frame",
    question="malformed",
    references=(
        "sing-vmess, all versions: the entry is in the table before the network byte is looked at",
    ),
    minimal="a:open a:new:1:echo a:junk:network",
    fails=("tasks",),
)
