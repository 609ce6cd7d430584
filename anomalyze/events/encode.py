"""Scored records: the incoming bytes with the sections of the verdict spliced onto their end.

Nothing that came is changed: a scored record is the transaction up to its last brace, then ``enrichment``,
``analysis``, ``verdict`` and ``src``. Ordinary rows are written by one compiled pass into one buffer; the few
that have something to tell bring their three sections ready made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numba import njit

from anomalyze.events.batch import MicroBatch
from anomalyze.events.memory import PADDING, copy_bytes, load_u64, put_byte, put_u64
from anomalyze.events.number import (
    DECIMALS_MAX,
    NUMBER_BYTES_MAX,
    format_number,
    write_integer,
    write_number,
)

__all__ = ["SCORE_DECIMALS", "Challenge", "ScoredEncoder", "warm"]

SCORE_DECIMALS = 6
SPEND_DECIMALS = 2
DISTANCE_DECIMALS = 1

_COMMA = ord(",")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a challenger says of the rows of one call; arrays ``[m]``, as the rows.

    Attributes
    ----------
    said
        Rows that it judged, bool.
    ml_score
        float64; NaN without a model.
    special
        By row of the batch: ``,"challenger":{...}`` where it says more than an ordinary row.
    """

    said: npt.NDArray[np.bool_]
    ml_score: npt.NDArray[np.float64]
    special: Mapping[int, bytes]


class ScoredEncoder:
    """Writes scored records for one bundle. Not for two threads at once: it keeps its buffer.

    Parameters
    ----------
    feature_names
        Published features, in the order of the columns given to ``encode``.
    decimals
        Decimals of each (0 to ``DECIMALS_MAX``); trailing zeros are not written.
    bundle, profiles, daily_profiles
        Versions that the verdicts name; no profiles where none were used.
    challenger
        The bundle that is shadowed beside it; None where there is none.
    """

    def __init__(
        self,
        feature_names: Sequence[str],
        decimals: Sequence[int],
        bundle: str,
        profiles: str | None = None,
        challenger: str | None = None,
        daily_profiles: str | None = None,
    ) -> None:
        if len(feature_names) != len(decimals) or not all(0 <= d <= DECIMALS_MAX for d in decimals):
            raise ValueError(
                f"expected 0 to {DECIMALS_MAX} decimals for each of {len(feature_names)} features"
            )
        self._decimals = np.array(decimals, dtype=np.int64)
        named = {"bundle": bundle, "profiles": profiles, "daily_profiles": daily_profiles}
        versions = {name: version for name, version in named.items() if version is not None}
        pieces = [
            b',"enrichment":{"user_avg_spend":',
            b',"distance_from_last_tx":',
            b',"features":{',
            b'}},"analysis":{"rule_flags":[],"ml_score":',
            b',"ml_prediction":"NORMAL"',
            b',"ml_prediction":"LEARNING"',
            b"," + json.dumps(versions, separators=(",", ":"))[1:-1].encode(),
            b',"challenger":{"bundle":%b,"final_severity":"NONE","ml_score":'
            % json.dumps(challenger).encode(),
            b"}",
            b'},"verdict":{"final_severity":"NONE","action":"ALLOW"}',
            b',"src":{"partition":',
            b',"offset":',
            b',"previous":',
            b"}}",
            *(json.dumps(name).encode() + b":" for name in feature_names),
        ]
        assert len(pieces) == _NAMES + len(feature_names)
        self._pieces = np.frombuffer(bytearray(b"".join(pieces) + bytes(PADDING)), dtype=np.uint8)
        self._piece_ends = np.cumsum(np.array([0, *map(len, pieces)], dtype=np.int64), dtype=np.int64)
        fixed = sum(map(len, pieces)) + len(feature_names)
        self._row_bytes_max = fixed + NUMBER_BYTES_MAX * (len(feature_names) + 7) + 1
        self._grow(1 << 16)

    def encode(
        self,
        batch: MicroBatch,
        rows: npt.NDArray[np.int64],
        features: npt.NDArray[np.float64],
        spend_mean: npt.NDArray[np.float64],
        distance_km: npt.NDArray[np.float64],
        ml_score: npt.NDArray[np.float64],
        learning: npt.NDArray[np.bool_],
        previous: npt.NDArray[np.int64],
        special: Mapping[int, bytes],
        challenger: Challenge | None = None,
    ) -> list[bytes]:
        """Scored records of the rows ``rows[m]`` of ``batch``, in that order.

        All other arrays have the shape ``[m]`` (``features``: ``[m, k]``) and belong to ``rows`` one by one. NaN is
        written as ``null``, and a feature that is NaN not at all. ``previous`` is the offset of the record
        before in the same partition of ``scored``. ``special[row]``, keyed by the row of the batch, is
        ``"enrichment":{...},"analysis":{...},"verdict":{...}`` for a row that says more than an ordinary one.
        ``challenger`` is what is added to ``analysis`` of the others.
        """
        m = len(rows)
        special_start, special_end = places_in(special, rows, 0)
        pieces = [*special.values()]
        if challenger is None:
            challenger_score = np.empty(0)
            challenger_start = np.full(m, _SILENT, dtype=np.int64)
            challenger_end = special_end
        else:
            challenger_score = np.ascontiguousarray(challenger.ml_score, dtype=np.float64)
            challenger_start, challenger_end = places_in(challenger.special, rows, sum(map(len, pieces)))
            challenger_start[~challenger.said] = _SILENT
            pieces += challenger.special.values()
        extra = b"".join(pieces)
        incoming = int((batch.data_end[rows] - batch.starts[rows]).sum())
        needed = incoming + len(extra) + m * self._row_bytes_max + PADDING
        if len(self._blob) <= needed:
            self._grow(needed + needed // 4)
        bounds = np.zeros(m + 1, dtype=np.int64)
        _encode_rows(
            self._blob_address,
            bounds,
            batch.buffer,
            batch.starts,
            batch.data_end,
            batch.partition,
            batch.offset,
            np.ascontiguousarray(rows, dtype=np.int64),
            np.ascontiguousarray(features, dtype=np.float64),
            np.ascontiguousarray(spend_mean, dtype=np.float64),
            np.ascontiguousarray(distance_km, dtype=np.float64),
            np.ascontiguousarray(ml_score, dtype=np.float64),
            np.ascontiguousarray(learning, dtype=np.bool_),
            np.ascontiguousarray(previous, dtype=np.int64),
            np.frombuffer(bytearray(extra + bytes(PADDING)), dtype=np.uint8),
            special_start,
            special_end,
            challenger_score,
            challenger_start,
            challenger_end,
            self._pieces,
            self._piece_ends,
            self._decimals,
        )
        blob = self._blob
        return [blob[a:b] for a, b in pairwise(bounds.tolist())]

    def _grow(self, size: int) -> None:
        # Written in place by its address and never handed out: slices of a bytes object are the quickest way to
        # many small ones, and a copy of the whole between would double the cost of encoding.
        self._blob = bytes(size + 1)
        self._blob_address = np.frombuffer(self._blob, dtype=np.uint8).ctypes.data

    def enrichment(self, features: npt.NDArray[np.float64], spend_mean: float, distance_km: float) -> bytes:
        """The section ``"enrichment":{...}`` of one row (``features``: ``[k]``) as an ordinary row has it."""
        out = np.empty(self._row_bytes_max + PADDING, dtype=np.uint8)
        end = _write_enrichment(
            out.ctypes.data,
            0,
            np.ascontiguousarray(features, dtype=np.float64).reshape(1, -1),
            0,
            float(spend_mean),
            float(distance_km),
            self._pieces.ctypes.data,
            self._piece_ends,
            self._decimals,
        )
        return out[1:end].tobytes() + b"}}"


def places_in(
    texts: Mapping[int, bytes], rows: npt.NDArray[np.int64], first: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Beginning and end of each row's text in all of them joined, from ``first`` on; -1 for a row without one."""
    starts, ends = np.full(len(rows), -1, dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    if texts:
        place, found = first, {}
        for row, text in texts.items():
            found[row] = place, place + len(text)
            place += len(text)
        for i, row in enumerate(rows.tolist()):
            if row in found:
                starts[i], ends[i] = found[row]
    return starts, ends


def warm() -> None:
    """Compile everything that encoding needs (from numba's cache when it is there)."""
    from anomalyze.events.decode import decode_records
    from anomalyze.events.gazetteer import Gazetteer

    record = (
        b'{"meta":{"timestamp":"2025-12-20T12:00:00Z","user_id":"u","account_id":"a"},'
        b'"data":{"tx_id":"t","amount":1,"currency":"USD"}}'
    )
    batch = decode_records(
        [0], [0], [1 << 42], [record], partition_count=1, future_tolerance_ms=0, gazetteer=Gazetteer.load()
    ).batch
    one = np.ones(1)
    whole = np.zeros(1, dtype=np.int64)
    encoder = ScoredEncoder(["f"], [2], "")
    encoder.encode(batch, whole, one.reshape(1, 1), one, one, one, np.zeros(1, dtype=np.bool_), whole, {})
    encoder.enrichment(one, 1.0, 1.0)
    format_number(1.0, 2)


# The pieces by number; the names of the features follow.
(
    _ENRICHMENT,
    _DISTANCE,
    _FEATURES,
    _ANALYSIS,
    _NORMAL,
    _LEARNING,
    _REST,
    _CHALLENGER,
    _CHALLENGER_END,
    _VERDICT,
    _SRC,
    _OFFSET,
    _PREVIOUS,
    _END,
    _NAMES,
) = range(15)

# In place of the beginning of a row's text: the challenger says nothing of it.
_SILENT = -2


@njit(cache=True, nogil=True)
def _write_piece(out, i, pieces, piece_ends, piece):  # type: ignore[no-untyped-def]
    start = piece_ends[piece]
    length = piece_ends[piece + 1] - start
    # Pieces are short: whole words, and what they write too much is written over next.
    for at in range(0, length, 8):
        put_u64(out, i + at, load_u64(pieces, start + at))
    return i + length


@njit(cache=True, nogil=True)
def _write_enrichment(  # type: ignore[no-untyped-def]
    out, i, features, row, spend_mean, distance_km, pieces, piece_ends, decimals
):
    """Index behind ``,"enrichment":{...`` without its two closing braces."""
    i = _write_piece(out, i, pieces, piece_ends, _ENRICHMENT)
    i = write_number(out, i, spend_mean, SPEND_DECIMALS)
    i = _write_piece(out, i, pieces, piece_ends, _DISTANCE)
    i = write_number(out, i, distance_km, DISTANCE_DECIMALS)
    i = _write_piece(out, i, pieces, piece_ends, _FEATURES)
    first = True
    for column in range(features.shape[1]):
        value = features[row, column]
        if value != value:
            continue
        if not first:
            put_byte(out, i, _COMMA)
            i += 1
        first = False
        i = _write_piece(out, i, pieces, piece_ends, _NAMES + column)
        i = write_number(out, i, value, decimals[column])
    return i


@njit(cache=True, nogil=True)
def _encode_rows(  # type: ignore[no-untyped-def]
    out,
    bounds,
    buffer,
    starts,
    data_end,
    partition,
    offset,
    rows,
    features,
    spend_mean,
    distance_km,
    ml_score,
    learning,
    previous,
    extra,
    special_start,
    special_end,
    challenger_score,
    challenger_start,
    challenger_end,
    piece_array,
    piece_ends,
    decimals,
):
    pieces = piece_array.ctypes.data
    i = np.int64(0)
    for k in range(len(rows)):
        row = rows[k]
        length = data_end[row] - starts[row]
        copy_bytes(out, i, buffer, starts[row], length)
        i += length
        if special_start[k] >= 0:
            put_byte(out, i, _COMMA)
            length = special_end[k] - special_start[k]
            copy_bytes(out, i + 1, extra, special_start[k], length)
            i += 1 + length
        else:
            i = _write_enrichment(
                out, i, features, k, spend_mean[k], distance_km[k], pieces, piece_ends, decimals
            )
            i = _write_piece(out, i, pieces, piece_ends, _ANALYSIS)
            i = write_number(out, i, ml_score[k], SCORE_DECIMALS)
            i = _write_piece(out, i, pieces, piece_ends, _LEARNING if learning[k] else _NORMAL)
            i = _write_piece(out, i, pieces, piece_ends, _REST)
            if challenger_start[k] >= 0:
                length = challenger_end[k] - challenger_start[k]
                copy_bytes(out, i, extra, challenger_start[k], length)
                i += length
            elif challenger_start[k] != _SILENT:
                i = _write_piece(out, i, pieces, piece_ends, _CHALLENGER)
                i = write_number(out, i, challenger_score[k], SCORE_DECIMALS)
                i = _write_piece(out, i, pieces, piece_ends, _CHALLENGER_END)
            i = _write_piece(out, i, pieces, piece_ends, _VERDICT)
        i = _write_piece(out, i, pieces, piece_ends, _SRC)
        i = write_integer(out, i, np.int64(partition[row]))
        i = _write_piece(out, i, pieces, piece_ends, _OFFSET)
        i = write_integer(out, i, offset[row])
        i = _write_piece(out, i, pieces, piece_ends, _PREVIOUS)
        i = write_integer(out, i, previous[k])
        i = _write_piece(out, i, pieces, piece_ends, _END)
        bounds[k + 1] = i
