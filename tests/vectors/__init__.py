"""Golden frames: each message of both catalogues as bytes, in both encodings."""
