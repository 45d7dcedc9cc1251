#!/usr/bin/env bash
# Surprise: torch.compile(model, options={"freezing": True}) cannot compile a model that torchao quantized to int8 for
#   inductor on x86 ("UnsupportedOperatorException: onednn.qlinear_prepack"); torch._inductor.config.freezing = True, the
#   setting that the option names, compiles the same model.
# Versions: torch 2.13.0+cpu, torchao 0.18.0. A C++ compiler is needed.
# Users: set torch._inductor.config.freezing (or TORCHINDUCTOR_FREEZING=1) for the process; int8 needs it to be fast.
# Source: the operators that hold prepared weights are registered when the first model is compiled if the global setting
#   is on by then; an option counts only afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'torchao==0.18.0' 'numpy==2.4.6' 'setuptools'
cd "$work"
TORCHINDUCTOR_CACHE_DIR="$work/inductor" venv/bin/python - 2> "$work/log" <<'PYTHON' || { tail -5 "$work/log" >&2; exit 1; }
import importlib.metadata

import torch
import torch._inductor.config
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

print("torch", torch.__version__, "torchao", importlib.metadata.version("torchao"))
print("guess: the option and the global setting do the same")
torch.manual_seed(0)
layer, x = torch.nn.Linear(64, 64).eval(), torch.randn(8, 64)
quantizer = x86.X86InductorQuantizer()
quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
with torch.no_grad():
    prepared = prepare_pt2e(torch.export.export(layer, (x,)).module(), quantizer)
    prepared(x)
    model = convert_pt2e(prepared)
    try:
        torch.compile(model, options={"freezing": True})(x)
        raise SystemExit("changed: the option compiles")
    except Exception as error:
        said = str(error).splitlines()[0]
        print("seen: option:", type(error).__name__, said[:90])
    torch._dynamo.reset()
    torch._inductor.config.freezing = True
    error = (torch.compile(model)(x) - layer(x)).abs().max().item()
    print("seen: global setting: compiled, greatest error", round(error, 4))
assert "qlinear_prepack" in said
assert error < 0.1
PYTHON
