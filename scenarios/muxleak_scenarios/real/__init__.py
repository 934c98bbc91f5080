"""Real proxies beside their twins in Python: the same sequences, counted by the same code.

`programs` finds and configures the proxies, `cases` has the sequences and their claimed growth, and
`compare` runs each sequence against the program and against both variants of its twin.
"""
