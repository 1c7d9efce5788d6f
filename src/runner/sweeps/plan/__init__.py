"""Which jobs a sweep has: a grid, random points, or the trials of a search."""
