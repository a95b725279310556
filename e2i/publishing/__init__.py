"""Which checkpoint and caches of a store are in use: promoted, rolled back, looked up."""
