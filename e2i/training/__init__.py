"""Training of projection heads on cached embeddings."""
