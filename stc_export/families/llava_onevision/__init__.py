"""LLaVA-OneVision: SigLIP, two-layer projector with bilinear pooling, Qwen2."""
