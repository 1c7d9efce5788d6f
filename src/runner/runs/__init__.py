"""Do a run and use it: execute, resume, reproduce, report."""
