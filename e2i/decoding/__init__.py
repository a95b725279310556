"""Decoding in processes that may hang or crash without taking anything else along."""
