"""Schedules of a running sweep: which job is next. `make.py` chooses one by the method of the plan."""
