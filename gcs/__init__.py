"""The Guest Compute Service: an agent in a Linux utility VM, and the host side that uses it."""
