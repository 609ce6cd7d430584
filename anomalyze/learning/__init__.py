"""From stored transactions to a better bundle: candidates, the checks they must pass, promotion, drift."""
