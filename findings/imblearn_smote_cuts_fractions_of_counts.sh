#!/usr/bin/env bash
# Surprise: SMOTE of whole numbers, as CountVectorizer gives them, cuts the fractions of what it makes: new texts of the rare
#   class lie between two old ones and are rounded down, so they have 1.75 words where those have 3. The same counts
#   as floats keep them. Nothing is said.
# Versions: imbalanced-learn 0.14.2, scikit-learn 1.9.1. ADASYN, BorderlineSMOTE and SVMSMOTE make them in the same way.
# Users: pass counts.astype(numpy.float32), or TF-IDF, to fit_resample, and compare the mean of old and new rows.
# Source: the new rows are cast to the type of the old ones, and a cast from float to integer cuts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'imbalanced-learn==0.14.2' 'scikit-learn==1.9.1' 'scipy==1.17.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from imblearn.over_sampling import SMOTE
from sklearn.feature_extraction.text import CountVectorizer

print("imbalanced-learn", version("imbalanced-learn"), "scikit-learn", version("scikit-learn"))
print("guess: new texts have about as many words as those between which they lie")
rare = ["refund never came", "refund came late", "late refund again", "never came again", "parcel never came", "late parcel again"]
texts = [f"thanks all good item{number}" for number in range(30)] + rare
labels = [0] * 30 + [1] * 6
counts = CountVectorizer().fit_transform(texts)


def words(rows):
    """Return the mean number of words of old and of new texts of the rare class."""
    resampled, _ = SMOTE(k_neighbors=3, random_state=0).fit_resample(rows, labels)
    return float(resampled[30:36].sum(1).mean()), round(float(resampled[36:].sum(1).mean()), 2)


whole, floats = words(counts), words(counts.astype("float32"))
print("seen: words of old and new texts", counts.dtype, whole, "float32", floats)
assert whole[0] == floats[0] == 3
assert whole[1] < 2 and abs(floats[1] - 3) < 0.2
PYTHON
