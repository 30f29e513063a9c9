"""The teacher: labels and rationales from any large language model. Needs no TensorFlow, no JAX."""
