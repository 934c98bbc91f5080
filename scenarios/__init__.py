"""Joins vless and harness: connection sequences, oracles, targets, the registry of pairs."""
