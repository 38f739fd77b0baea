"""Surges, shares and silences: what is improbable under the last two weeks, and how often that would be wrong."""
