"""The targets that run a sequence: simulated, loopback TCP, uvloop."""
