"""Generated demo data in Clotho's form: procedural recordings with captions from a grammar."""
