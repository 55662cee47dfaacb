"""What a checkpoint holds: safetensors headers, checked before MLX sees them, and tables of tensor names.

Imports no MLX and knows nothing of how a model is computed.
"""
