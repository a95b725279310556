"""Projection heads: embeddings to the joint space."""
