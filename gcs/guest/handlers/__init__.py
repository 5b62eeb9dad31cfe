"""One function per request: check the state, make one hop, record, reply."""
