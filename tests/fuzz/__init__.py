"""Coverage-guided fuzzing of both decoders: what a hostile peer can make of them."""
