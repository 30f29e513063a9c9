"""The same tasks, loss and batches for T5X's own trainer. Only this folder imports T5X.

Nothing of dss_jax imports it: T5X's gin files do (gin/t5x/).
"""
