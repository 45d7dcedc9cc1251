"""Measurements of scripts/bench.py, scripts/bench_gpu.py and scripts/tune.py.

Reading order, which is also the order in which the modules may import one another:

flops       operations and tokens of a forward pass
statistics  medians, quartiles and quantiles of measured times
measure     interleaved runs, so that a busy machine slows all of them alike
machine     machine, versions and command of a measurement
texts       texts of realistic lengths: short, long and mixed
synthetic   models with random weights, and a synthetic vocabulary
models      models to measure: a folder, an archive, or a BERT with random weights
roofline    the speed of matrix products of the model's own shapes on this machine
engine      part 1: the engine alone, as a fraction of the roofline
scaling     part 2: time and memory against work, threads, token budget, batch and workers
exported    the same weights as models of ONNX, OpenVINO, CTranslate2 and torchao
peers       part 3: other implementations on the same texts and weights
libraries   the peers that are installed
accuracy    cost of lower precision
accounting  account of the requests of a load run: sent = right + refused + failed, and none wrong
http        HTTP client of load runs
load        requests at a rate or from a number of connections
loadgen     the system under test of LoadGen
wrk         requests from a number of connections by wrk, where it is installed
servers     the servers of this package, and a LitServe, with their own ports and folders
litserver   the LitServe server of the comparison
side_by_side    part 6: servers side by side, in one run
serving     parts 4 and 5: LoadGen's Offline and Server scenarios, against both servers of this package
against     another commit's build beside this one
against_worker  process of one build, independent of scripts/
training    training by another commit's build beside this one
training_worker process of one build that trains
tables      tables of the report
plots       figures of the report
report      report as Markdown
suites      all parts in order
gpu         measurements of one model on a GPU, with PyTorch and transformers alone
gpu_workers throughput of several workers on one GPU
gpu_report  report of a benchmark on a GPU
gpu_suite   parts of scripts/bench_gpu.py, each in a process of its own
tuning      settings of a model from measurements and a latency target
capacity    measurements of scripts/tune.py, and its check against a live server
"""
