"""Uses what was trained: pictures become digits as MNIST's are, and finished runs classify them.

Others use `trained` (finished runs as models that predict), `preprocessing` (from a picture to 28×28), `drawing`
(the page to draw in) and `onnx_file` (a run as an ONNX file).
"""
