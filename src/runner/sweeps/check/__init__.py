"""The check of a sweep: every job is composed and built before the first one starts."""
