"""Encoders: recordings and captions to embeddings, behind two protocols."""
