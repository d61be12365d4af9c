"""What launcher and executor say to each other: a request, a stream of events, a result. Versioned, typed, size-capped."""
