"""The code inside a .mar: it serves one fine-tuned model.

Reading order, which is also the order in which the modules may import one another:

errors            every error, and who has to act
paths             whether a path that a file names stays in its folder
config            settings of an operator, frozen and validated
labels            the names of labels in config.json, consistent or refused
protocol/         bytes <-> JSON values: strict JSON, and codecs
sequences         how texts become sequences of limited length: truncation, windows and their merge
spans             spans of whole characters and words, and the best spans of scores
tag_scheme        how the labels of tokens divide a text into spans
blas_threads      the threads of numpy's BLAS
torch_presence    whether PyTorch is installed, said without its import
gpu_presence      whether PyTorch can use a GPU, said without its import
arrays            numpy arrays and PyTorch's tensors in one expression
activations       the activations of torch.nn
tensor_files      tensors of safetensors as numpy arrays
weight_files      the files of a model's weights and the names of their tensors
tokenizer_files   the files of a tokenizer, checked
sentence_layers   the layers behind the pooling of a sentence-transformers folder
sentence_router   the routes of such a folder, and a table of weights for its queries
late_interaction  how such a folder reads queries and documents into vectors of tokens
sentence_modules  the modules of such a folder
model_folder      what a model folder says beside weights and tokenizer
alignment         where in a text each token comes from
python_tokenizer  tokenizers that transformers has in Python alone, as fast ones
tokenization      text -> encodings, never padded
confidence        what scores are worth: calibration, label sets with a coverage, the reference for drift
batching          the plan of batches, and the Batch that a model gets
tasks/            one module for each task: parse, pool, decode
engine/           encodings -> outputs, on one device
explain           explanations: attributions of words
archive           the files of a .mar, and the check of its hashes
telemetry         counts and times of a batch
request_state     requests, their items, responses
tracing           OpenTelemetry spans of requests and batches, off unless configured
http_headers      headers of a request -> Request
request_parser    request -> queries
response_writer   outputs -> response
openapi           an OpenAPI document of one served model
predictor         the pipeline on one page: requests -> responses
self_test         golden inputs and answers, compared before a worker is ready
loading           model folder or archive -> predictor
description       the description of what is served
properties        a file of settings as java.util.Properties reads it
server_config     the settings of the TorchServe server that runs this worker
metrics_queue     measurements, handed to TorchServe a few times a second
worker_socket     TorchServe's protocol, read through a buffer
bert_handler      TorchServe's entry point, the only module that imports ts
"""
