"""The build engine: turn this repository and pinned downloads into kernel, initrd and tools.

It will not hold third-party imports: it makes the virtual environment, so it runs before
there is one, from Debian's python3 and the standard library alone.
"""
