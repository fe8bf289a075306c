"""Models as products: opened whatever they are stored as, scored, described.

Requires torch and timm; onnxruntime only for ONNX files.
"""
