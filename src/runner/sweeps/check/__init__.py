"""See that every job of a sweep can be composed and built, before the first one starts."""
