#!/usr/bin/env bash
# Surprise: references given as one list for each sentence score the first sentence alone: one perfect sentence and two
#   wrong ones have BLEU 100 and chrF 100, not 31. Nothing is said; the number of references is not compared.
# Versions: sacrebleu 2.6.0.
# Users: the outer list is one of sets of references, corpus_bleu(hypotheses, [references]); compare hyp_len of the score
#   with your own texts.
# Source: references and hypotheses are zipped, and the shorter one ends both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sacrebleu==2.6.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import sacrebleu

print("sacrebleu", sacrebleu.__version__)
print("guess: a list of references for each of three sentences is read so, or refused: one list has three items, not one")
hypotheses = ["the cat sat on the mat", "a completely different thing here now", "no match at all for this one"]
references = ["the cat sat on the mat", "one two three four five six", "seven eight nine ten eleven twelve"]
right = sacrebleu.corpus_bleu(hypotheses, [references])
wrong = sacrebleu.corpus_bleu(hypotheses, [[reference] for reference in references])
right_chrf = sacrebleu.corpus_chrf(hypotheses, [references]).score
wrong_chrf = sacrebleu.corpus_chrf(hypotheses, [[reference] for reference in references]).score
print("seen: one set of references: BLEU", round(right.score, 1), "chrF", round(right_chrf, 1), "words", right.sys_len)
print("seen: one list for each sentence: BLEU", round(wrong.score, 1), "chrF", round(wrong_chrf, 1), "words", wrong.sys_len)
assert right.score < 40 and right_chrf < 60 and right.sys_len == 19
assert round(wrong.score, 6) == 100 and round(wrong_chrf, 6) == 100 and wrong.sys_len == 6
PYTHON
