"""Scoring a corpus on a Ray cluster: every row of some files gets exactly one answer, also when workers die.

    rows.py           files, parts and rows of a corpus
    ids.py            ids of rows in the output
    parquet.py        row groups of Parquet files
    formats.py        file formats: cut a file into parts, read the rows of a part
    corpus.py         the files of a corpus, and their parts
    answer_schema.py  the Arrow type of answers, from the JSON Schema of a task
    output.py         the output file of one part: JSON lines or Parquet
    job.py            the output folder: its plan, its parts, and the check that every row is in it once
    scorer.py         a worker: loads the model, reads a part, answers it, writes its file
    cluster.py        Ray: connects or starts, and gives workers one part after the other
    run.py            a run: answer the missing parts and report progress

Only indices of parts and counts go through Ray, never a text: a worker reads and writes files itself. The file of a
part appears under its name when it is complete, by renaming; so a part that is computed twice, because a worker died or
a run was restarted, is there once.
"""
