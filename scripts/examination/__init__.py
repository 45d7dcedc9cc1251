"""What a model's folder or an archive says, what of it will be served, and what is odd about it."""
