"""A stored or foreign history through the detector: what would have been flagged, and was it right."""
