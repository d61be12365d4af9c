"""What a build comes to: operations, steps, stages, the graph between them, and the keys by which results are known."""
