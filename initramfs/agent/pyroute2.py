"""Stand in for pyroute2's own __init__ in the guest, which imports the whole package.

The agent names the two modules that it needs. All of them take three times as long to import,
and want SQLite.
"""
