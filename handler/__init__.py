"""The code that rides inside a .mar: texts in, answers out.

Reading order, which is also the order in which the modules may import one another:

errors          what can go wrong, and who has to act
config          what an operator can set: frozen and validated
protocol/       bytes <-> JSON values: strict JSON and codecs
sequences       how texts fit into sequences: truncation, windows and their merge
spans           the best spans of tokens, by scores of their starts and ends
tag_scheme      how the labels of tokens divide a text into spans
tokenization    text -> encodings, never padded
batching        a plan in integers, and the Batch that a model sees
tasks/          what a model is used for: parse, reduce, decode
engine/         encodings -> outputs, on one device
explain         why an answer: attributions of words
archive         what rides in the .mar beside the code, and how a worker knows that it is what was packed
telemetry       what is counted and timed
request_state   requests, their items, responses
openapi         the contract of one served model, as a document
predictor       the story on one page: requests -> replies
bert_handler    the door: the only module that knows TorchServe
"""
