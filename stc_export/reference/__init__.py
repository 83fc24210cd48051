"""The same policies in the original model: transformers' modules in PyTorch, and methods that only work there.

What decides is shared with the runtime (:mod:`stc_runtime.gate`, :mod:`stc_runtime.memory.planner`, the tokenizer);
what computes is not: every forward pass goes through transformers' modules, and nothing of the graphs is used.
"""
