"""The standalone server: the archives, routes, keys and answers of TorchServe in one Python process, without Java.

Reading order, which is also the order in which the modules may import one another:

errors         the errors of the server itself, in TorchServe's shape
openai_tokens  token ids of OpenAI's models -> text
settings       config.properties, as far as it applies here; the rest is refused by name, or has no meaning
log            one JSON object a line, without a user's text
metrics        counters, gauges, histograms in the names of metrics.yaml, and Prometheus' text format
keys           key_file.json: who may ask which port
reading        bodies: short ones that come together at once, long ones beside the event loop
batcher        token-budget batches: what waits is computed when the engine is free
parent         a process that ends with the one that started it
explanations   explanations, in a process of their own
archives       an archive of the model store -> a folder, its name and version
loaded_model   one version of a model: loads it, answers its requests
registry       all versions of all models, and which one answers by default
direct         bodies and responses without ASGI's messages, where nobody must see them
transport      ASGI messages <-> requests and responses: bodies bounded while they arrive
tracing        a span for each request of the inference port
forms          the field `data` of a form
predictions    the inference port: TorchServe's own routes, KServe's, SageMaker's
health         what is alive and ready
compatible     other protocols of the inference port: OpenAI, Cohere, Jina
management     the management port: what is registered, and changes of it
applications   the three ports as ASGI applications
connections    HTTP connections with limits of time and size
own_folder     a temporary folder, which the next process removes where this one is killed
ray_serve      the inference port as a deployment of Ray Serve
lifecycle      start, drain, stop
__main__       the command line
"""
