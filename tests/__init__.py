"""The tests: unit, property, root (a real kernel) and vm (a booted one)."""
