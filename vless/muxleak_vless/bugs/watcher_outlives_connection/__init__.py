"""Facts of the pair: sing-box issue #2421, the first bug of this collection."""

from muxleak_vless.bugs import Facts

FACTS = Facts(
    title="one watcher task stays behind for every closed mux connection",
    symptom="the number of goroutines grows by one per connection and never falls: 350,000 of them",
    question="watched_context",
    references=(
        "sing-box issue #2421 (2024-12-29)",
        "sing-vmess d70afe4 (2022-09-23, introduced) to v0.1.12, in sing-box up to 1.10.5",
        "sing-vmess 8cd5f17 = v0.1.13 (2024-12-30, fixed), in sing-box 1.10.6",
    ),
    minimal="a:open a:close",
    fails=("tasks",),
    aliases=("2421", "flagship"),
)
