"""The command line. Imports nothing that its command does not need."""
