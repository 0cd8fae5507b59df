"""Lagar from Python: clients of a server, and `push` into the home or over HTTP."""
