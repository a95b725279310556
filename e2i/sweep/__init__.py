"""The comparison of heads on equal terms: arms, matched widths, random search, what came out."""
