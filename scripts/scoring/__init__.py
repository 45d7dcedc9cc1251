"""Scoring a corpus on a Ray cluster: every row of some files gets its answer exactly once, whatever dies meanwhile.

    corpus.py    files cut into parts; a part read back as rows with questions
    job.py       the output folder: its plan, which parts are there, and whether they are all and whole
    output.py    the file of one part: JSON lines or Parquet
    scorer.py    a worker: loads the model, reads a part, answers it, writes its file
    cluster.py   Ray: connects or starts, and lets workers take one part after the other

What travels through Ray are numbers of parts and counts, never a text: a worker reads and writes files itself. A part
has one name, and its file appears there at once and whole; so a part that is done twice, because a worker died or a run
was started again, is there once.
"""
