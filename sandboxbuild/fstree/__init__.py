"""A filesystem as a value: entries, trees, changes, and the actions that make one tree out of another. No I/O."""
