"""Models trained elsewhere, as ONNX files: scored in the worker, and replaced while it serves.

An extra: ``pip install 'dovetail-samples[onnx]'``.
"""

from dovetail.onnx.fed_model import OnnxModel
from dovetail.onnx.file_scorer import OnnxFile, OnnxScorer

__all__ = ["OnnxFile", "OnnxModel", "OnnxScorer"]
