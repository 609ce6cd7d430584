"""Seeded traffic of ordinary users, with labelled incidents among it."""
