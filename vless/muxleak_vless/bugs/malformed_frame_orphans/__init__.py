"""Facts of the pair: a malformed New replaces an open stream."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="a malformed New on an id in use orphans the stream that has it",
    symptom="one handler stays for ever after a peer has sent one wrong byte in a frame",
    question="malformed",
    references=(
        "sing-vmess, all versions: the entry is in the table before the network byte is looked at",
    ),
    minimal="a:open a:new:1:echo a:junk:network",
    fails=("tasks",),
)
