"""Real proxies beside their twins in Python: the same sequences, counted by the same code.

`programs` finds and configures the proxies, `cases` says what is claimed of each sequence, and
`compare` runs a sequence at the program and at both variants of the pair that is its twin.
"""
