"""Uses what was trained: pictures become digits as MNIST's are, and finished runs classify them.

Others use `trained` (runs that predict), `preprocessing`, `drawing` (the page to draw in) and `onnx_file`.
"""
