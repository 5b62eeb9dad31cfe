"""The OCI runtime spec of a container, on its way from the host to the runtime. Pure data."""
