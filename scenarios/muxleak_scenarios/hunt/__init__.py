"""Hunting: the same sequences over TCP at a running server, which is counted from outside.

Nothing here needs the server to be ours, or to be written in Python: `counters` counts it through
its debug endpoint and /proc, `destinations` are ours, `batch` repeats a sequence, `measure` watches
what grows, `shrink` and `pattern` make the sequence short and keep the next search off it.
"""
