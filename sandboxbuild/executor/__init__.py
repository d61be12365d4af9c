"""The builder inside the sandbox."""
