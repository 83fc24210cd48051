"""Readers of public benchmarks: official annotation files and videos in, clips with questions out."""
