#!/usr/bin/env bash
# Surprise: a study that exists keeps its direction: create_study(direction="maximize", load_if_exists=True) on one that was
#   made without direction searches for the worst accuracy, and best_params are those of the worst trial.
# Versions: optuna 5.0.0.
# Users: compare study.direction with what you want after create_study, before optimize.
# Source: with load_if_exists the arguments that describe a new study are not looked at; "minimize" is the default.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'optuna==5.0.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)
print("optuna", optuna.__version__)
print("guess: asking for another direction raises an error, or changes the direction")
storage = "sqlite:///study.db"
optuna.create_study(study_name="bert", storage=storage)  # the first try of a user, without a direction
study = optuna.create_study(study_name="bert", storage=storage, direction="maximize", load_if_exists=True)
study.enqueue_trial({"rate": 1e-5})
study.enqueue_trial({"rate": 1e-2})
accuracy = {1e-5: 0.93, 1e-2: 0.41}
study.optimize(lambda trial: accuracy[trial.suggest_float("rate", 1e-5, 1e-2)], n_trials=2)
print("seen:", study.direction.name, "best", study.best_params, "accuracy", study.best_value)
assert study.direction.name == "MINIMIZE" and study.best_value == 0.41
PYTHON
