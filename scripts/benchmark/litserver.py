"""The LitServe server of the comparison, built as LitServe documents it: a pipeline, and batches of requests.

Started as a process: python -m scripts.benchmark.litserver FOLDER PORT THREADS BATCH
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

litserve: Any = importlib.import_module("litserve")
Base: Any = litserve.LitAPI

FOLDER, PORT, THREADS, BATCH = (*sys.argv[1:5], *("",) * 4)[:4]


class Classifier(Base):  # type: ignore[misc]
    """One text in, every label with its score out."""

    folder, threads = FOLDER, THREADS

    def setup(self, device: str) -> None:
        """Load the pipeline in the worker."""
        import torch
        import transformers

        torch.set_num_threads(int(self.threads))
        load: Any = transformers.pipeline
        self.pipe = load("text-classification", model=self.folder, tokenizer=self.folder, device=device, top_k=None)

    def decode_request(self, request: dict[str, str]) -> str:
        """Read the text."""
        return request["text"]

    def predict(self, texts: list[str]) -> Any:
        """Label the texts of a batch, padded to the longest of them."""
        return self.pipe(texts, batch_size=len(texts), truncation=True)

    def encode_response(self, output: Any) -> Any:
        """Write the answer."""
        return output


def main() -> None:
    """Serve until the process is ended."""
    api = Classifier(max_batch_size=int(BATCH), batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(PORT), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
