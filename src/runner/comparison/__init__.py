"""Runs side by side: read, told apart, ranked. No matplotlib."""
