"""Whether what is published is still as good as it was: drift, comparison, records."""
