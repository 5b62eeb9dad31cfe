"""The kernel floor: plain synchronous functions that raise OSError and keep no state.

No trio, no messages, no logging; each can be tried at a root prompt.
"""
