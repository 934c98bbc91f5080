"""Hunting: sequences over TCP against a running server, whose goroutines are counted from outside.

The server can be any program in any language. `counters` counts it through its debug endpoint and
/proc, `destinations` are listeners of the hunt, `batch` repeats a sequence, `measure` computes the
growth, `shrink` makes the sequence short, and `pattern` keeps later sequences from it.
"""
