"""The on-device runtime: drive a bundle over an endless video stream with numpy and one backend.

Nothing heavy is imported before it is used; backends and optional packages are found when a session is opened.
"""

from stc_export.spec.policy import Policy, named_policies
from stc_export.spec.report import AnswerPiece, FrameReport, MemoryUse
from stc_runtime.bundle import Bundle
from stc_runtime.model import Model
from stc_runtime.sampling import TopP
from stc_runtime.session import StreamSession

__all__ = [
    "AnswerPiece",
    "Bundle",
    "FrameReport",
    "MemoryUse",
    "Model",
    "Policy",
    "StreamSession",
    "TopP",
    "named_policies",
]
