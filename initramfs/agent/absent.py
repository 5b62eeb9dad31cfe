"""Stand in for modules whose names others import, and of which the guest uses nothing.

They would be executed whenever the agent starts, with all that they import: trio's TLS with
OpenSSL, for one, 5 MB resident and 1.8 MB in the initrd. Which ones these are is told in
`initramfs/recipes/python.py`.
"""


def __getattr__(name: str) -> type:
    """Return a class by any name; it says why it can't be used."""
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(cls: type, *_values: object, **_named: object) -> object:
        raise NotImplementedError(f"{cls.__qualname__}: left out of the guest's image")

    return type(name, (), {"__new__": refuse})
