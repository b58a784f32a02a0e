"""What cheaper trials of a search cost in mistakes."""
