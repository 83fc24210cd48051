"""stc-export: split a streaming video LLM into ONNX graphs, build engines, and run them on edge devices."""

__version__ = "0.1.0"
