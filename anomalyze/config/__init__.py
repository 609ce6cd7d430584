"""Reading what users write: YAML with lines, every mistake of every file named at once."""

from __future__ import annotations

from anomalyze.config.document import Document, load_document, parse_document
from anomalyze.config.problem import ConfigProblems, Problem, closest, problems_of
from anomalyze.config.validation import StrictModel, validate

__all__ = [
    "ConfigProblems",
    "Document",
    "Problem",
    "StrictModel",
    "closest",
    "load_document",
    "parse_document",
    "problems_of",
    "validate",
]
