"""Files of transactions: what is in them, which column is which field, and their rows onto the log."""
