"""A small streaming video world with questions, from which the demo model is trained and measured.

One direction: ``script`` (seed to :class:`~stc_export.world.scene.Clip`), ``render`` (clip to frames), ``state`` (clip
to what is true at a frame), ``questions`` (state to multiple choice), ``splits`` (which seeds are train, validation and
test). Everything is integer arithmetic on streams that numpy has frozen, so the same seed gives the same bytes on any
machine.
"""
