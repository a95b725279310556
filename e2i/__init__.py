"""e2i: captioned recordings in, text-to-audio search out.

The library computes and stores. It knows no orchestrator, reads no environment variable, prints
nothing and chooses no device behind the caller's back.
"""

__version__ = "0.1.0"
