"""The host side: images and their layers, the utility VM, and what drives the agent in it."""
