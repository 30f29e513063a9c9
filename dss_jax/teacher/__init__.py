"""The teacher: labels and rationales from any large language model. Needs no TensorFlow and no JAX.

A Request is what a server is asked; the Store keeps every answer, and what was spent; the Client
asks one request; `run` asks many, at the pace that the server allows.
"""
