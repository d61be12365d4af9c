"""Events to text: terminal, plain, JSON lines."""
