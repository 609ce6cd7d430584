"""The same job written for Quix Streams. Arguments: bootstrap servers, input topic, output topic, model."""

import sys

import msgspec
import numpy as np
import onnxruntime
from quixstreams import Application

servers, source, target, model = sys.argv[1:5]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options)
entry = session.get_inputs()[0]
width = entry.shape[1]
decode = msgspec.json.Decoder()
encode = msgspec.json.Encoder()

application = Application(
    broker_address=servers,
    consumer_group="peer-quix",
    auto_offset_reset="earliest",
    loglevel="WARNING",
    auto_create_topics=False,
)
inputs = application.topic(source, value_deserializer="bytes", key_deserializer="bytes")
outputs = application.topic(target, value_serializer="bytes", key_serializer="bytes")
seen = {}


def judge(value):
    if value.startswith(b'{"control":'):
        return None
    event = decode.decode(value)
    user = event["meta"]["user_id"]
    amount = float(event["data"]["amount"])
    count, total = seen.get(user, (0, 0.0))
    mean = total / count if count else amount
    seen[user] = (count + 1, total + amount)
    row = np.zeros((1, width), np.float32)
    row[0, :3] = amount / mean if mean else 0.0, amount, count + 1
    score = float(session.run(None, {entry.name: row})[0].ravel()[0])
    event["enrichment"] = {"user_avg_spend": mean, "features": {"tx_count": count + 1}}
    event["analysis"] = {"rule_flags": ["AMOUNT"] if amount > 3 * mean else [], "ml_score": score}
    event["verdict"] = {"final_severity": "NONE", "action": "ALLOW"}
    return encode.encode(event)


frame = application.dataframe(inputs)
frame = frame.apply(judge)
frame = frame.filter(lambda value: value is not None)
frame.to_topic(outputs)
application.run()
