"""The same job written for Bytewax: parse, a few features a user, our ONNX model in batches, back to Kafka.

Arguments: bootstrap servers, input topic, output topic, model.
"""

import sys
from datetime import timedelta

import msgspec
import numpy as np
import onnxruntime
from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

servers, source, target, model = sys.argv[1:5]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options)
entry = session.get_inputs()[0]
width = entry.shape[1]
decode = msgspec.json.Decoder()
encode = msgspec.json.Encoder()


def parse(message):
    if message.value.startswith(b'{"control":'):
        return None
    event = decode.decode(message.value)
    return event["meta"]["user_id"], (message.key, event)


def features(state, item):
    key, event = item
    count, total, largest = state or (0, 0.0, 0.0)
    amount = float(event["data"]["amount"])
    mean = total / count if count else amount
    event["enrichment"] = {
        "user_avg_spend": mean,
        "features": {"tx_count": count + 1, "ratio": amount / mean if mean else 0.0},
    }
    return (count + 1, total + amount, max(largest, amount)), (key, event)


def score(batch):
    rows = np.zeros((len(batch), width), np.float32)
    for i, (_, (_, event)) in enumerate(batch):
        found = event["enrichment"]["features"]
        rows[i, 0] = found["ratio"]
        rows[i, 1] = event["data"]["amount"]
        rows[i, 2] = found["tx_count"]
    scores = session.run(None, {entry.name: rows})[0].ravel().tolist()
    for (_, (key, event)), value in zip(batch, scores, strict=True):
        event["analysis"] = {
            "rule_flags": ["AMOUNT"] if event["enrichment"]["features"]["ratio"] > 3 else [],
            "ml_score": value,
        }
        event["verdict"] = {"final_severity": "NONE", "action": "ALLOW"}
        yield KafkaSinkMessage(key, encode.encode(event))


flow = Dataflow("peer")
messages = op.input("in", flow, KafkaSource([servers], [source], batch_size=5000, tail=True))
parsed = op.filter_map("parse", messages, parse)
enriched = op.stateful_map("features", parsed, features)
judged = op.flat_map_batch("score", enriched, score)
op.output("out", judged, KafkaSink([servers], target))
cli_main(flow, epoch_interval=timedelta(seconds=10))
