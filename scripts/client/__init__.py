"""A running server as its client sees it: settings, addresses and keys, HTTP, questions and answers."""
