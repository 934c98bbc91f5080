"""Facts of the pair: unread data has a limit for each stream and none for their connection."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="unread data has a limit per stream, and none over all streams of a connection",
    symptom="one user fills the server's memory through one connection, with thousands of streams",
    question="make_room",
    references=(
        "the reference of muxleak 0.1.0: 4,096 streams of 256 KiB, a gigabyte per connection",
        "Xray-core: a pipe of 512 KiB per stream, and no limit on their sum; read, not run",
    ),
    minimal="a:open a:new:1:deaf+200 a:new:2:deaf+200 a:close",
    fails=("bounds",),
)
