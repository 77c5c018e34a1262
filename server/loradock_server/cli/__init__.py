"""The `loradock` command: one file per group of commands, all of them thin.

A command here reads flags, calls the part that does the work, and shows the answer. No rule about adapters,
keys or engines lives in this package.
"""
