"""Networks to choose from, and what can be known of one before it is trained."""
