"""A run as an ONNX file that needs nothing else: images as MNIST has them in, logits out."""

import numpy as np
import torch
from torch import Tensor, nn

from mnist_exp.data.decoding import IMAGE_SIZE
from mnist_exp.errors import UserError
from mnist_exp.inference.preprocessing import SIDE, resize_matrix
from mnist_exp.inference.trained import TrainedModel
from mnist_exp.runs.record import WEIGHTS
from mnist_exp.settings.schema import DATASETS

TOLERANCE = 1e-4  # by which a logit may differ from PyTorch's


class WholeModel(nn.Module):
    """The model with everything between a dataset's images and its input."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.model = trained.model
        self.mean, self.std = trained.normalisation
        name = trained.record.identity["data"]["name"]
        self.side = SIDE if DATASETS.get(name, "").endswith("MNIST") or name == "png_folder" else IMAGE_SIZE
        # From 28 to 32, the weights are multiples of 1/16: every product and sum is exact in float32.
        self.enlarge = nn.Parameter(torch.from_numpy(resize_matrix(self.side, IMAGE_SIZE)).float(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32, ``[N, classes]``, of images, uint8, ``[N, 28, 28]``, or of 32×32 from a folder."""
        # ONNX's own Resize rounds differently; 8-bit resizing rounds after each direction, the horizontal one first.
        pixels = torch.floor(images.float() @ self.enlarge.T + 0.5)
        pixels = torch.floor(self.enlarge @ pixels + 0.5)
        logits: Tensor = self.model(pixels[:, None].div(255).sub(self.mean).div(self.std))
        return logits


def to_onnx(trained: TrainedModel) -> bytes:
    """The content of the file: the same for the same run and versions.

    Raises:
        UserError: the packages are missing, or the file's answers differ from PyTorch's.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter's own error does not say what to install
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; run: pip install onnx onnxscript") from error
    whole = WholeModel(trained).eval()
    program = torch.onnx.export(
        whole,
        (torch.zeros(2, whole.side, whole.side, dtype=torch.uint8),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    graph = (model := program.model_proto).graph  # each access makes another copy
    # The exporter notes from which lines of which files each node came.
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    mean, std = trained.normalisation
    known = {"run": trained.record.name, "weights_sha256": (trained.record.files or {})[WEIGHTS]}
    known |= {"mean": str(mean), "std": str(std), "classes": ", ".join(trained.classes)}
    onnx.helper.set_model_props(model, known)
    images = np.random.default_rng(0).integers(0, 256, (7, whole.side, whole.side)).astype(np.uint8)
    (found,) = ReferenceEvaluator(model).run(None, {"images": images})
    if not np.allclose(found, trained.logits(images).numpy(), rtol=0, atol=TOLERANCE):
        raise UserError(f"the file's answers differ from PyTorch's by more than {TOLERANCE}, so it is not written")
    return bytes(model.SerializeToString(deterministic=True))
