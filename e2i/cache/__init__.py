"""The embedding cache: plan, shards, manifest, tensor snapshots."""
