"""Data sets: readers of captioned recordings, and the generated soundscapes."""
