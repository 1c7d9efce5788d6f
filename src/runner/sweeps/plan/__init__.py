"""The jobs of a sweep: a grid, random points, or the trials of a search."""
