"""What a run shows: sheets of pseudo-images, and later plots, reports and cards."""
