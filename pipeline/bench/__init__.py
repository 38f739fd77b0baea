"""What `salience bench` measures: the whole way beside the bare model, and the engine without a model."""
