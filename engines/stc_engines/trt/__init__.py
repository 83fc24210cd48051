"""Graphs become TensorRT engines: TensorRT 10.3 and newer, and TensorRT-RTX, through the API that they share."""
