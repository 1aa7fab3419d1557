"""The trained model as it is shipped: a byte for each weight, and no tokens that English never uses.

python recipes/pack.py MODEL TARGET
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import unicodedata
from pathlib import Path

from safetensors.torch import load_file, save_file

from spanwright import Extractor

EMBEDDINGS = "embeddings.word_embeddings.weight"


def is_kept(token: str) -> bool:
    """Whether a token can occur in text of Latin letters: no place holder, no letter of another script."""
    if token.startswith("[unused"):
        return False
    return all(unicodedata.name(char, "").startswith("LATIN") or not char.isalpha() for char in token)


def prune(folder: Path) -> tuple[int, int]:
    """Leave tokens out of a package's tokenizer and embeddings; how many there were, and are.

    Word pieces are found greedily, so that a word made of tokens that stay is cut as before; one of another script
    becomes the unknown token.
    """
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = {**tokenizer["model"]["vocab"], **added}
    kept = [
        token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1]) if token in added or is_kept(token)
    ]
    new = {token: place for place, token in enumerate(kept)}
    tokenizer["model"]["vocab"] = {token: new[token] for token in tokenizer["model"]["vocab"] if token in new}
    for token in tokenizer["added_tokens"]:
        token["id"] = new[token["content"]]
    for special in tokenizer["post_processor"]["special_tokens"].values():
        special["ids"] = [new[token] for token in special["tokens"]]
    if "cls" in tokenizer["post_processor"]:
        raise SystemExit("the post-processor must be a template")
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")

    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith(EMBEDDINGS))
    weights[name] = weights[name][[vocabulary[token] for token in kept]].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "gliner_config.json").read_text(encoding="utf-8"))
    config["vocab_size"] = config["encoder_config"]["vocab_size"] = len(kept)
    config["encoder_config"]["pad_token_id"] = new["[PAD]"]
    config["class_token_index"] = new[config["ent_token"]]
    (folder / "gliner_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return len(vocabulary), len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        Extractor.from_pretrained(options.model, device="cpu").save(folder)
        before, after = prune(folder)
        packed = Path(temporary) / "packed"
        Extractor.from_pretrained(folder, device="cpu").save(packed, as_int8=True)
        options.target.mkdir(parents=True, exist_ok=True)
        for path in packed.iterdir():
            shutil.copy(path, options.target / path.name)
    size = sum(path.stat().st_size for path in options.target.iterdir())
    print(f"vocabulary {before:,} -> {after:,}; {size:,} bytes")


if __name__ == "__main__":
    main()
