"""Caches on the Hugging Face Hub: mirrored to a data set, restored from one."""
