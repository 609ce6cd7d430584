"""Detectors that a metric asks for by name, beside novelty and rarity."""
