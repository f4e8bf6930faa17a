"""Base models: find, check and load them, once a process.

Any decoder-only model that `AutoModelForCausalLM` opens, from a folder or by hub id. Code that
comes with a model runs only where it is asked for and is the code that was allowed (`code.py`);
weights are read from safetensors only, never from pickles. Nothing here imports torch until a model
is loaded, so that a configuration can be checked in a fraction of a second.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer import code, storage
from trainer import roots as confined
from trainer.errors import CheckpointError, ConfigError, ModelError

_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
MOST_TEMPLATE = 2**20
"""Bytes of a chat template. The longest in use are some 20 kB."""
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

_pristine: tuple[tuple[str, int, str | None], Any] | None = None
"""The last base model read from disk, with its folder and time of change. Never trained."""


def folder_of(
    model: str,
    revision: str | None = None,
    *,
    roots: Sequence[str] | None = None,
    with_code: bool = False,
) -> Path:
    """The local folder of `model`: itself, or the hub snapshot, downloaded if need be.

    Args:
        model: a folder, a hub id, or the address of an export in a store.
        revision: a commit or tag of the hub; None: its newest.
        roots: folders below which a folder has to lie; None: anywhere.
        with_code: fetch the Python files of a hub model too.

    Raises:
        ModelError: the folder is absent, or the hub can't be reached and has nothing cached.
        OutsideError: the folder lies outside of `roots`.
    """
    path = Path(model).expanduser()
    if roots is not None and not storage.is_remote(model):
        if model.startswith(("/", "~", ".")):
            path = confined.folder(model, roots)
        else:  # nothing is read from the working directory
            path = Path("/nonexistent")
    if path.is_dir():
        return path
    if storage.is_remote(model):
        return _from_store(model)
    if path.exists():
        raise ModelError(f"model {model!r} is a file; give the folder that holds config.json")
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or " " in model:
        raise ModelError(f"model folder {model!r} does not exist; check the path")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    if with_code:
        wanted += code.MODEL_CODE
    which: dict[str, Any] = {"revision": revision, "allow_patterns": wanted}
    try:
        try:
            found = Path(snapshot_download(model, **which, local_files_only=True))
            # What was fetched without code looks whole to the library.
            if with_code and not any(found.glob("*.py")):
                return Path(snapshot_download(model, **which))
            return found
        except Exception:
            return Path(snapshot_download(model, **which))
    except Exception as error:
        raise ModelError(
            f"model {model!r} is neither an existing folder nor a hub id that could be fetched "
            f"({type(error).__name__}); check the name, or download it and give its folder"
        ) from error


def _from_store(model: str) -> Path:
    """A checked copy of a model that a run exported to a store."""
    copies = Path(tempfile.gettempdir()) / f"winnow-models-{os.getuid()}"
    try:
        found = storage.fetch(model, copies)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    if found is None:
        raise ModelError(f"model {model!r} isn't there, or is damaged; check the address")
    return found


def check_model(
    model: str,
    revision: str | None = None,
    *,
    roots: Sequence[str] | None = None,
    trusted: bool = False,
) -> Path:
    """Check without torch that `model` can be fine-tuned here; returns its folder.

    Args:
        model, revision, roots: see `folder_of`.
        trusted: its own code may run, if it is that of `revision`.

    Raises:
        ModelError: says what is missing, or that its code isn't the one that was allowed.
        OutsideError: the folder lies outside of `roots`.
    """
    folder = folder_of(model, revision, roots=roots, with_code=trusted)
    if trusted:
        code.staged(folder, revision or "")
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(f"model folder {str(folder)!r} has no config.json; is it a model folder?")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{config_file} is not JSON ({error}); fetch the model again") from error
    problem = _runs_code_of_others(folder, config)
    if problem is not None:
        raise ModelError(problem)
    architectures = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        raise ModelError(f"model {model!r} is an encoder-decoder; give a decoder-only model")
    if architectures and not any(name.endswith(_CAUSAL_SUFFIXES) for name in architectures):
        raise ModelError(
            f"model {model!r} is a {', '.join(architectures)}; give a decoder-only causal "
            "language model"
        )
    if not _weight_files(folder) and any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"model folder {str(folder)!r} has its weights as pickles (pytorch_model.bin), which "
            "can run code when they are read; save them as safetensors: model.save_pretrained("
            "folder, safe_serialization=True)"
        )
    if not _weight_files(folder):
        raise ModelError(
            f"model folder {str(folder)!r} has no .safetensors weights; save the model with "
            "save_pretrained"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"model folder {str(folder)!r} has no tokenizer (tokenizer.json); save the tokenizer "
            "next to the model with save_pretrained"
        )
    return folder


def _runs_code_of_others(folder: Path, config: dict[str, Any]) -> str | None:
    """Why opening a model would fetch something that nobody has allowed; None if it wouldn't."""
    repository = code.elsewhere(folder)
    if repository is not None:
        return (
            f"the code of model {str(folder)!r} lies in another repository, {repository}, at no "
            "fixed revision; copy its files beside the weights, and name them in auto_map"
        )
    kernel = config.get("attn_implementation", config.get("_attn_implementation"))
    if "/" in str(kernel or ""):
        return (
            f"the config.json of {str(folder)!r} names an attention kernel to fetch, {kernel}; "
            "remove attn_implementation from it"
        )
    if (folder / "adapter_config.json").is_file():
        return (
            f"model folder {str(folder)!r} holds an adapter (adapter_config.json), which would be "
            "loaded into the model; merge it, or remove the file"
        )
    return None


def count_parameters(folder: Path) -> int:
    """Parameters of the model, read from the headers of its weight files."""
    total = 0
    for file in _weight_files(folder):
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        total += sum(
            math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        )
    return total


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def load_tokenizer(
    folder: Path,
    chat_template: str | None = None,
    *,
    roots: Sequence[str] | None = None,
    trusted: str | None = None,
) -> Any:
    """The model's tokenizer with the chat template in force.

    Args:
        folder: a model folder.
        chat_template: a Jinja file that replaces the tokenizer's own template.
        roots: folders below which that file has to lie; None: anywhere.
        trusted: the revision of the model's code that may run; None: none may.

    Raises:
        ModelError: there is no usable tokenizer, template, or end-of-sequence token.
        OutsideError: the template lies outside of `roots`.
    """
    override = None if chat_template is None else _template(chat_template, roots)
    try:
        tokenizer = _open_tokenizer(folder, trusted)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the tokenizer in {str(folder)!r} can't be opened: {error}") from error
    if override is not None:
        tokenizer.chat_template = override
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer in {str(folder)!r} has no chat template; set data.chat_template to a "
            "Jinja file, or give a model that has one"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {str(folder)!r} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return tokenizer


def _template(chat_template: str, roots: Sequence[str] | None) -> str:
    file = confined.resolved(chat_template, roots)
    if not file.is_file():
        raise ModelError(f"chat template {chat_template!r} does not exist; check the path")
    with confined.opened(chat_template, roots) as stream:
        text = stream.read(MOST_TEMPLATE + 1)
    if len(text) > MOST_TEMPLATE:
        raise ModelError(f"chat template {chat_template!r} is larger than a template can be")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ModelError(f"chat template {chat_template!r} is not UTF-8 text") from None


def _open_tokenizer(folder: Path, trusted: str | None) -> Any:
    settings = folder / "tokenizer_config.json"
    kind = ""
    if settings.is_file():
        kind = str(json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class", ""))
    if kind in _PLAIN_CLASSES and (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast  # a second faster: imports no torch

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    if trusted is not None:
        return AutoTokenizer.from_pretrained(_with_code(folder, trusted), trust_remote_code=True)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _with_code(folder: Path, trusted: str) -> Path:
    """A checked copy of the model to load from, with transformers' copies of its code beside it:
    those in the user's cache could have been written by anybody."""
    from transformers import dynamic_module_utils

    dynamic: Any = dynamic_module_utils
    copy = code.staged(folder, trusted)
    modules = str(copy.parent / "modules")
    if modules != dynamic.HF_MODULES_CACHE:
        dynamic.HF_MODULES_CACHE = modules
        if modules not in sys.path:
            sys.path.insert(0, modules)
        for name in [n for n in sys.modules if n.partition(".")[0] == "transformers_modules"]:
            del sys.modules[name]
    return copy


def tokenizer_key(folder: Path, tokenizer: Any) -> str:
    """A hash of everything that decides how text becomes tokens."""
    digest = hashlib.sha256(str(tokenizer.chat_template).encode())
    for name in (*_TOKENIZER_FILES, "merges.txt", "special_tokens_map.json", "added_tokens.json"):
        file = folder / name
        if file.is_file():
            digest.update(name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def load_model(folder: Path, *, four_bits: str | None = None, trusted: str | None = None) -> Any:
    """A fresh copy of the base model on the CPU, in the data type it was saved in.

    The last model read stays in host memory if that leaves three quarters of it free, so that the
    next run of the process starts without reading it again.

    Args:
        folder: a model folder.
        four_bits: `bf16` or `fp32`: keep its linear layers in 4 bits (NF4, double quantisation) and
            compute in that precision. Such a model is read to the device where it will run, and
            read again each time.
        trusted: the revision of the model's code that may run; None: none may.

    Raises:
        ModelError: transformers can't open it.
        ConfigError: 4 bits can't be had here.
    """
    global _pristine
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if four_bits is not None:
        return _load_in_4_bits(folder, four_bits, trusted)
    newest = max(file.stat().st_mtime_ns for file in _weight_files(folder))
    key = (str(folder.resolve()), newest, trusted)
    if _pristine is not None and _pristine[0] == key:
        return copy.deepcopy(_pristine[1])
    _pristine = None
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder if trusted is None else _with_code(folder, trusted),
            dtype="auto",
            trust_remote_code=trusted is not None,
            use_safetensors=True,
            low_cpu_mem_usage=True,
        )
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model in {str(folder)!r} can't be opened: {error}") from error
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size * max(1, torch.cuda.device_count()) <= _memory_available() // 4:
        _pristine = (key, model)
        return copy.deepcopy(model)
    return model


def _load_in_4_bits(folder: Path, precision: str, trusted: str | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    problem = four_bit_problem()
    if problem is not None:
        raise ConfigError(problem, "/method")
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder if trusted is None else _with_code(folder, trusted),
            dtype="auto",
            trust_remote_code=trusted is not None,
            use_safetensors=True,
            quantization_config=how,
            device_map={"": place},
        )
    except Exception as error:
        raise ModelError(
            f"the model in {str(folder)!r} can't be opened in 4 bits ({error}); use method: lora"
        ) from error
    for layer in model.modules():
        # On some CPUs a forward pass in eval mode would repack the weights and round their scales.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def four_bit_problem() -> str | None:
    """Why `method: qlora` can't work on this machine, and what can; None if it can.

    Asked without importing torch or bitsandbytes.
    """
    missing = [name for name in ("bitsandbytes", "accelerate", "peft") if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"method qlora needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
        f"not installed here; pip install {' '.join(missing)}, or use method: lora"
    )


def compile_layers(model: Any, *, backend: str = "inductor") -> int:
    """Compile each decoder layer of `model` in place; how many there are.

    One layer is compiled once and its code serves all layers and all shapes, so the first step
    takes seconds to a minute longer and the later ones don't. Call it last: a forward pass in
    another mode (such as the trials of `choose`) would be compiled too.

    Args:
        model: a causal language model.
        backend: of `torch.compile`.

    Raises:
        ConfigError: there is no compiler, or no decoder layers are found.
    """
    import torch

    problem = compiler_problem()
    if problem is not None:
        raise ConfigError(problem, "/compile")
    layers = decoder_layers(model)
    if not layers:
        raise ConfigError(
            f"compile: no decoder layers are found in a {type(model).__name__}; set compile: false",
            "/compile",
        )
    # Layers differ in nothing that the code depends on; shapes differ from batch to batch.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)


def decoder_layers(model: Any) -> list[Any]:
    """The repeated blocks of a language model, as its class names them."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]


def compiler_problem() -> str | None:
    """Why `torch.compile` can't work on this machine, and what to do; None if it can."""
    import torch

    if torch.cuda.is_available():
        if find_spec("triton") is not None:
            return None
        return "compile: true needs triton, which is not installed here; set compile: false"
    if any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++", "clang++")):
        return None
    return "compile: true needs a C++ compiler on a CPU; install g++, or set compile: false"


def _memory_available() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
