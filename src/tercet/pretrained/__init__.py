"""Weights and tokenizers of language models from files, without transformers: for `lm/` and `arm/`."""
