"""Stand in for pyroute2's own __init__ in the guest, which imports the whole package.

The agent names the modules that it needs, which are what messages look like. All of them take
many times as long to import, bring asyncio along, and want SQLite.
"""
