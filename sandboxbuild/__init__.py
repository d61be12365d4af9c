"""A sandboxed container image builder for code that you don't trust."""

__version__ = "0.1.0"
