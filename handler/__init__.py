"""The code that rides inside a .mar: texts in, answers out.

Reading order, which is also the order in which the modules may import one another:

errors          what can go wrong, and who has to act
config          what an operator can set: frozen and validated
wire            dialects: bytes <-> JSON values
layout          how texts fit into sequences: cut, or seen through windows and put together again
tokenization    text -> encodings, never padded
batching        a plan in integers, and the Batch that a model sees
tasks/          what a model is used for: parse, reduce, decode
engine/         the speed room: encodings -> values
explain         why an answer: attributions of words
archive         what rides in the .mar beside the code, and how a worker knows that it is what was packed
telemetry       what is counted and timed
work            what travels: requests, items, replies
openapi         the contract of one served model, as a document
predictor       the story on one page: requests -> replies
bert_handler    the door: the only module that knows TorchServe
"""
