"""How the guest image is made; nothing in here runs inside the guest.

It will not hold anything that the agent or the host tools import at run time.
"""
