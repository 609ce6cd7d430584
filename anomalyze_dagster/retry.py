"""Retries belong to errors that time heals: a store or a database that does not answer now."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from anomalyze.errors import AnomalyzeError, TransientError

__all__ = ["RETRY", "retried"]

RETRY = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextmanager
def retried() -> Iterator[None]:
    """Let the step's `RETRY` have what time heals; what it does not heal fails at once, in its own words."""
    try:
        yield
    except TransientError:
        raise
    except AnomalyzeError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
