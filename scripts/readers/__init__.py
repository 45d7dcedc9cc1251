"""Readers of data files: formats to records, records to checked tables.

    formats.py       CSV, TSV, JSON, JSON lines, Parquet and text lines as numbered records, streamed
    label_studio.py  exports of Label Studio
    annotations.py   records of Prodigy and Argilla
    squad.py         questions in the form of SQuAD
    tables.py        a whole file or dataset split as a table; checks of its cells
    hub.py           datasets of the Hugging Face hub and of local folders, through the datasets library

Every command reads data files through this package, so that the same file means the same everywhere.
"""
