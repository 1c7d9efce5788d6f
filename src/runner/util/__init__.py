"""General tools. They know nothing about experiments and import no other wing."""
