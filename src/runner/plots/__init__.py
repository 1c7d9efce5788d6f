"""What a run has measured, as PNG: curves from its journal, and what its model says of the test samples."""
