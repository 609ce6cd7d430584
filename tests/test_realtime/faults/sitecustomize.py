"""For workers under test: silent members are noticed soon, and two records are more than a worker can bear: one
kills the process natively, one raises when its verdict is written, the state having moved on already.

Python imports it at its start, because the tests put this folder on PYTHONPATH; the product knows nothing of it.
"""

import os
import sys

KILLS, RAISES = b"kills the process", b"raises in the encoder"

if "realtime.detector" in sys.orig_argv:
    import anomalyze.bus.embedded as embedded
    import anomalyze.bus.embedded_consumer as embedded_consumer
    import anomalyze.bus.kafka as kafka
    import anomalyze.detection.output as output
    import anomalyze.events.decode as decode

    embedded.EmbeddedBus.__init__.__kwdefaults__["session_timeout_s"] = 3.0
    embedded_consumer.HEARTBEAT_S = 0.5
    kafka.KafkaBus.__init__.__kwdefaults__["session_timeout_ms"] = 3_000

    decode_records = decode.decode_records

    def decode_or_die(partitions, offsets, append_ms, values, **limits):
        if any(KILLS in value for value in values):
            os.abort()
        return decode_records(partitions, offsets, append_ms, values, **limits)

    decode.decode_records = decode_or_die

    encode_scored = output.encode_scored

    def encode_or_raise(batch, verdicts, rows, previous):
        if RAISES in batch.buffer.tobytes():
            raise RuntimeError("a fault on purpose")
        return encode_scored(batch, verdicts, rows, previous)

    output.encode_scored = encode_or_raise
