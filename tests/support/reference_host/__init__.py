"""A host compute service in use, as the guest sees it from the other end of the bridge.

It is written from the description of what such hosts do, not from this project's code: nothing
in here imports gcs, so a mistake that both of our ends share is still seen. It is the part of
a host that talks to a guest, and nothing else: `frames` and `shapes` read and write messages,
`bridge` matches replies and drops the bridge where hosts do, `guest`, `container` and `process`
are the objects that hosts work with, `layers` are the requests that mount a container's files,
`logs` reads the log stream.
"""
