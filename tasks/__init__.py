"""Prefect tasks: retries, time-outs and tags around one `e2i` call each."""
