"""The evaluation tasks, by the names that --problem takes: those of scripts/train.py, and what a model serves besides.

base.py            the base class, questions and outcomes
classification.py  single, multi, regression, entailment, zero-shot, next-sentence, similarity
entities.py        entities
answers.py         answers
ranking.py         ranking by a cross-encoder, retrieval by embeddings
masked_words.py    masked-words
"""
