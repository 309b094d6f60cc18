"""GGUF files on a disk: which language model fits which projector, and how KoboldCpp is started with them."""
