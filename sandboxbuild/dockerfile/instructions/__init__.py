"""One module for each instruction family: grammar, FLAGS table and lowering."""
