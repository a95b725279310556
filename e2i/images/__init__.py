"""Pseudo-images: embeddings folded into RGB images and back."""
