"""Who answers for assets, and where their objects are shown together."""

__all__ = ["OWNERS"]

OWNERS = ["team:fraud-platform"]
