"""Retrieval: ranks, metrics and their intervals."""
