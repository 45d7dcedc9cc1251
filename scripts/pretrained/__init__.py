"""Models as people have them: a local folder, an id of the hub, pickled weights, an adapter -> one folder to read."""
