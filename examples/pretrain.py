"""Pretrain a small Llama-architecture model, with its own tokenizer and chat template, on a CPU.

    python examples/pretrain.py --text FILE … --out FOLDER --minutes 10
    python examples/pretrain.py --jsonl FILE … --field messages --out FOLDER --minutes 10

The folder opens with `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.
A document is one line of a text file, or the contents of one JSONL line's messages. The chat
template's markers never occur in pretraining: answering is what fine-tuning is to teach.

Runs with equal arguments and `--steps` give equal weights on one kind of machine; with `--minutes`
the length of the run, and so the weights, depend on its speed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")

# Every turn and every document begins with a space, so a word is the same token wherever it is.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}"
    "{%- generation -%}{{- ' ' + message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- '<|' + message['role'] + '|> ' + message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def pretrain(args: argparse.Namespace) -> None:
    """Train tokenizer and model as `args` say, and write them to `args.out`."""
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    documents = [d for d in read_documents(args.text, args.jsonl, args.field) if d.strip()]
    if not documents:
        sys.exit("pretrain: the files hold no text")
    tokenizer = train_tokenizer(documents, args.vocab)
    model = build_model(args, tokenizer)
    encoded = tokenizer([" " + d + END for d in documents], add_special_tokens=False)["input_ids"]
    held_out, training = encoded[: len(encoded) // 50], encoded[len(encoded) // 50 :]
    print(
        f"{len(documents):,} documents, {sum(map(len, encoded)):,} tokens, vocabulary "
        f"{len(tokenizer):,}, {model.num_parameters():,} parameters",
        flush=True,
    )
    _train(model, training, args)
    if held_out:
        print(f"held-out loss {_loss(model, held_out, args):.4f}")
    model.to(getattr(torch, args.dtype)).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    size = sum(f.stat().st_size for f in args.out.iterdir())
    print(f"wrote {args.out} ({size / 1e6:.1f} MB)")


def read_documents(text: list[Path], jsonl: list[Path], field: str) -> Iterator[str]:
    """The lines of the text files, then one document for every JSONL line.

    `field` holds a string or a list of messages; of messages the contents are taken, a line each.
    """
    for path in text:
        yield from _lines(path)
    for path in jsonl:
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)[field]
            except (ValueError, KeyError, TypeError) as error:
                sys.exit(f"pretrain: {path}, line {number}: no JSON object with {field!r}: {error}")
            yield value if isinstance(value, str) else "\n".join(m["content"] for m in value)


def _lines(path: Path) -> list[str]:
    """A file's lines. Not `splitlines`, which also splits at U+2028 and other marks within text."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def train_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text round-trips, no token is unknown."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *MARKERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((" " + d for d in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(MARKERS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    tokens = tokenizer.get_vocab()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden,
            intermediate_size=args.intermediate or 4 * args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=args.heads,
            max_position_embeddings=args.positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokens[END],
            pad_token_id=tokens[PAD],
        )
    )
    model.generation_config.eos_token_id = tokens[END]
    model.generation_config.pad_token_id = tokens[PAD]
    return model.to(args.device)


# --- training ---------------------------------------------------------------------------------


def _train(model: LlamaForCausalLM, documents: list[list[int]], args: argparse.Namespace) -> None:
    """AdamW, warmup over the first 2 % and cosine decay over the rest of the run."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=args.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=args.weight_decay,
        fused=True,
    )
    batches = _batches(documents, args)
    start, step, progress, recent = time.monotonic(), 0, 0.0, []
    while progress < 1.0:
        factor = min(progress / 0.02, 0.5 * (1 + math.cos(math.pi * progress))) if step else 0.0
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * factor
        loss = _batch_loss(model, next(batches), args.autocast)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        elapsed = time.monotonic() - start
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        recent.append(loss.item())
        if step % 50 == 0 or progress >= 1.0:
            tokens_per_second = step * args.batch * args.length / elapsed
            print(
                f"{progress:6.1%}  step {step:6,}  loss {sum(recent) / len(recent):.4f}  "
                f"{tokens_per_second:,.0f} tokens/s  {elapsed:.0f} s",
                flush=True,
            )
            recent.clear()


def _batches(documents: list[list[int]], args: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Rows of `length` tokens cut from the shuffled, joined documents, epoch after epoch."""
    order = random.Random(args.seed)
    left: list[int] = []
    while True:
        for document in order.sample(documents, len(documents)):
            left += document
            if len(left) >= args.batch * args.length:
                rows, left = left[: args.batch * args.length], left[args.batch * args.length :]
                yield torch.tensor(rows, device=args.device).view(args.batch, args.length)


def _batch_loss(
    model: LlamaForCausalLM, rows: torch.Tensor, autocast: bool = False
) -> torch.Tensor:
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=autocast):
        logits = model(input_ids=rows).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


@torch.no_grad()
def _loss(model: LlamaForCausalLM, documents: list[list[int]], args: argparse.Namespace) -> float:
    """Mean loss over the documents' own tokens, at most 200 rows of them."""
    tokens = [t for document in documents for t in document][: 200 * args.length]
    rows = torch.tensor(tokens[: len(tokens) // args.length * args.length] or tokens)
    return _batch_loss(model, rows.view(-1, min(args.length, len(tokens))).to(args.device)).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="plain text files")
    parser.add_argument("--jsonl", type=Path, nargs="+", default=[], help="JSONL files")
    parser.add_argument("--field", default="messages", help="the JSONL field that holds the text")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--intermediate", type=int, default=0, help="default: 4 × hidden")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=2048, help="the longest context")
    parser.add_argument("--length", type=int, default=128, help="tokens in a training row")
    parser.add_argument("--batch", type=int, default=32, help="rows in a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=0, help="a fixed length instead of --minutes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.text and not args.jsonl:
        parser.error("give it something to read: --text FILE … or --jsonl FILE …")
    pretrain(args)


if __name__ == "__main__":
    main()
