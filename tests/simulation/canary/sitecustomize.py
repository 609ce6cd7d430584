"""A worker whose commit order is broken on purpose: checkpoint and offsets first, outputs only at the next commit.

Python imports it at its start, because ``chaos --canary`` puts this folder on PYTHONPATH. A worker that is killed
between the two loses verdicts for good; a fault test that does not notice this would notice nothing.
"""

import sys
import time

if "realtime.detector" in sys.orig_argv:
    from anomalyze.bus.topics import ANOMALIES, SCORED
    from realtime.detector.worker import COMMIT_S, Worker

    class LateProducer:
        """Keeps outputs back until the commit after the one that they belong to."""

        def __init__(self, producer):
            self._producer = producer
            self.fresh, self.late = [], []

        def __getattr__(self, name):
            return getattr(self._producer, name)

        def send_many(self, topic, *records):
            if topic in (SCORED, ANOMALIES):
                self.fresh.append((topic, *records))
            else:
                self._producer.send_many(topic, *records)

        def send_late(self):
            for records in self.late:
                self._producer.send_many(*records)
            self.fresh, self.late = [], self.fresh

    make, commit, due = Worker.__init__, Worker._commit, Worker._due

    def make_late(self, *arguments, **named):
        make(self, *arguments, **named)
        self._producer = LateProducer(self._producer)

    def commit_early(self, checkpoint=None):
        self._producer.send_late()
        commit(self, checkpoint if checkpoint is not None else set(self._owned))

    def due_for_late_outputs(self):
        # Without this, what was judged last would wait for ever, and the test would fail also unharmed.
        waits = (
            self._producer.fresh or self._producer.late
        ) and time.monotonic() - self._last_commit_s >= COMMIT_S
        return bool(waits) or due(self)

    Worker.__init__, Worker._commit, Worker._due = make_late, commit_early, due_for_late_outputs
