"""Network architectures and the conversion of their published checkpoints."""
