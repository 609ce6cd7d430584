"""For workers under test: members that fall silent are noticed soon, and one record kills the process natively.

Python imports it at its start, because the tests put this folder on PYTHONPATH; the product knows nothing of it.
"""

import os
import sys

MARKER = b"kills the process"

if "realtime.detector" in sys.orig_argv:
    import anomalyze.bus.embedded as embedded
    import anomalyze.bus.embedded_consumer as embedded_consumer
    import anomalyze.bus.kafka as kafka
    import anomalyze.events.decode as decode

    embedded.EmbeddedBus.__init__.__kwdefaults__["session_timeout_s"] = 3.0
    embedded_consumer.HEARTBEAT_S = 0.5
    kafka.KafkaBus.__init__.__kwdefaults__["session_timeout_ms"] = 3_000

    decode_records = decode.decode_records

    def decode_or_die(partitions, offsets, append_ms, values, **limits):
        if any(MARKER in value for value in values):
            os.abort()
        return decode_records(partitions, offsets, append_ms, values, **limits)

    decode.decode_records = decode_or_die
