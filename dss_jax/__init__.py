"""dss_jax: small T5 students of large language models, by distilling step by step."""

__version__ = '0.1.0'
