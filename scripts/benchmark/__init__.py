"""What scripts/bench.py and scripts/tune.py measure with.

Reading order, which is also the order in which the modules may import one another:

arithmetic  what a forward pass must compute, and what a list of times says
measure     contenders run in turn, so that a busy machine harms all of them alike
machine     where and with what was measured
texts       real texts of real lengths: short, long and mixed
made_up     models of random weights, and words for them
subjects    models to measure: a folder, an archive, or a random one made on the spot
roofline    the fastest that this machine multiplies matrices of the model's own shapes
engine      part 1: the engine alone, as a fraction of the roofline
scaling     part 2: time and memory against work, threads, token budget, batch and workers
exported    the same weights as ONNX and OpenVINO models
peers       part 3: what others do with the same texts and the same weights
accuracy    what fewer bits cost
ledger      every request of a load run: sent = right + refused + failed, and none wrong
http        a client thin enough not to be what is measured
service     a TorchServe, and a LitServe, of our own ports and folder
litserver   the server that LitServe runs
load        parts 4 to 6: LoadGen's Offline and Server scenarios, and servers side by side
tables      one table of the report for each question
report      results -> Markdown
plots       results -> pictures
parts       all of these in order
gpu         one model on a GPU, for scripts/bench_gpu.py, which needs PyTorch and transformers alone
gpu_workers several workers on one GPU
gpu_report  what was measured there -> Markdown
tuning      measurements and a target -> settings and their reasons
"""
