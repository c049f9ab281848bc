"""A tiny random Llama and a small byte-level tokenizer with a chat template, built in seconds, for any test."""

from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Drops everything up to the closing think tag of a reply, as the templates of R1's distilled models do.
DROPPING_TEMPLATE = CHAT_TEMPLATE.replace(
    "+ message['content'] +",
    "+ (message['content'].split('</think>')[-1] if message['role'] == 'assistant' else message['content']) +",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "What is 12 + 30? Think step by step and end with the final answer in \\boxed{}.",
    "<think>\n12 + 30 = 42\n</think>\n\nThe answer is \\boxed{42}.",
    "system user assistant\nSolve for x: 3 * x = 9. The greatest common divisor of 8 and 12 is 4.",
)
OTHER_CORPUS = ("The answer is one and two", "\\boxed{4} = 12 + 3")


def tokenizer(chat_template: str = CHAT_TEMPLATE):  # type: ignore[no-untyped-def]
    """A byte-level BPE tokenizer of about 400 tokens; <|im_end|> ends a turn, <|endoftext|> pads."""
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _byte_level(CORPUS, 400, SPECIAL, names, chat_template)


def other_tokenizer(size: int = 300):  # type: ignore[no-untyped-def]
    """One that cuts the same texts in other places; <end> ends a turn."""
    return _byte_level(OTHER_CORPUS, size, ("<end>",), {"eos_token": "<end>"}, CHAT_TEMPLATE)


def _byte_level(corpus, size, special, names, chat_template):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)
    made.chat_template = chat_template
    return made


def build(
    folder: Path,
    chat_template: str = CHAT_TEMPLATE,
    seed: int = 0,
    positions: int = 2048,
    layers: int = 2,
    **shape: int,
) -> Path:
    """Write a model of about 120,000 random weights and its tokenizer into a folder, as a hub would. Returns it.

    `shape` are further values of its configuration: hidden_size=96.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tokenizer(chat_template)
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(made),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    config = LlamaConfig(
        **(sizes | shape),
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a folder's one safetensors file, by name."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def examples(count: int, validation: int = 0, split: str = "train") -> list[dict[str, object]]:
    """Rows of mix/examples (the columns sft reads): sums of differing length, the last `validation` for validation."""
    rows: list[dict[str, object]] = []
    for number in range(count + validation):
        left, right = 3 * number + 1, number * number % 17
        steps = "".join(f"{left} + {step} = {left + step}\n" for step in range(right % 4 + 1))
        reply = f"<think>\n{steps}</think>\n\nThe answer is \\boxed{{{left + right}}}."
        rows.append(
            {
                "id": f"trace-{number:04d}",
                "prompt": [{"role": "user", "content": f"What is {left} + {right}?"}],
                "completion": [{"role": "assistant", "content": reply}],
                "split": split if number < count else "validation",
            }
        )
    return rows
