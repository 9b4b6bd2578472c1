"""Transforms of samples, shared by training, evaluation and deployment; `ppvision.data.TRANSFORMS` names them."""
