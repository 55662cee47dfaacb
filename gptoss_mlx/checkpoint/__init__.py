"""The contents of checkpoints: safetensors and GGUF headers, checked before use, adapters, tables of tensor names.

Imports no MLX and knows nothing of how a model is computed.
"""
