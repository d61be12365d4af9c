"""Policies, profiles and runtime descriptors as typed values, and what they come to: an Isolation, or an error."""
