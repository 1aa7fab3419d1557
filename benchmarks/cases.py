"""What is measured: one function for each kind of work, which gives rows of results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import ours
import peer
import shapes
import torch
from timing import peak_memory, side_by_side, timed

from parity import Agreement, agreement
from spanwright import DecodeOptions, Extractor, modes
from spanwright.decoding import Selection, named, resolve
from spanwright.entities import ScoredSpan
from spanwright.tensors import TokenScores

Result = dict[str, Any]


def exact(extractor: Extractor, rival: Any, texts: Sequence[str], labels: Sequence[str]) -> tuple[Agreement, Result]:
    """Parity in float32: the entities must be gliner's."""
    found = agreement(extractor.extract_many(texts, labels), peer.answers(rival, texts, labels, 8))
    told = {"both": found.both, "one": found.one, "difference": found.difference, "worst_flip": found.worst_flip}
    return found, {"case": "parity", "texts": len(texts), **told, "right": found.same_but_for_ties(1e-5)}


def throughput(
    extractor: Extractor,
    rival: Any,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    batch_sizes: Sequence[int],
    few: int,
    repeats: int,
) -> Result:
    """Texts a second. gliner reads the first `few` of the texts in each of `batch_sizes`, and its best counts."""
    part = list(texts[:few])
    works = {"ours": lambda: extractor.extract_many(texts, labels)}
    for size in batch_sizes:
        works[f"peer {size}"] = lambda size=size: peer.answers(rival, part, labels, size)
    found = side_by_side(works, repeats=repeats)
    own = found.pop("ours")
    best = min(found, key=lambda name: found[name]["median"])
    least = min(found, key=lambda name: found[name]["cpu"])
    return {
        "case": "extract_many",
        "texts": len(texts),
        "ours": len(texts) / own["median"],
        "ours_spread": [len(texts) / own["most"], len(texts) / own["least"]],
        "peer": few / found[best]["median"],
        "peer_setting": f"batch {best[5:]}",
        "peer_all": {name: few / each["median"] for name, each in found.items()},
        "ratio": found[best]["median"] / few * len(texts) / own["median"],
        "ratio_of_cpu_time": found[least]["cpu"] / few * len(texts) / own["cpu"],
    }


def latency(extractor: Extractor, rival: Any, texts: Sequence[str], labels: Sequence[str], *, times: int) -> Result:
    """Milliseconds for one text, the median over `times` calls on different texts."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for index in range(times + 3):
        text = texts[index % len(texts)]
        for name, work in (
            ("ours", lambda text=text: extractor.extract(text, labels)),
            ("peer", lambda text=text: peer.answers(rival, [text], labels, 1)),
        ):
            if index >= 3:
                seconds[name].append(timed(work)[0])
            else:
                work()
    own, other = (statistics.median(seconds[name]) for name in ("ours", "peer"))
    return {"case": "one text", "ours_ms": own * 1e3, "peer_ms": other * 1e3, "ratio": other / own}


def many_labels(extractor: Extractor, rival: Any, texts: Sequence[str], counts: Sequence[int], *, few: int) -> Result:
    """Seconds a text and peak memory as the number of labels grows; of gliner where it can."""
    rows = []
    for count in counts:
        labels = [f"{name} {number}" for number in range(count // 9 + 1) for name in shapes.label_names()][:count]
        extractor.extract_many(texts[:few], labels)
        row: Result = {"labels": count, "ours_ms": timed(lambda n=labels: extractor.extract_many(texts, n))[0]}
        row["ours_ms"] *= 1e3 / len(texts)
        if torch.cuda.is_available():
            row["ours_gib"], _ = peak_memory(lambda n=labels: extractor.extract_many(texts, n))
        encoder = extractor.encoder
        longest = max(sum(encoder.costs([word.text for word in extractor.split_words(text)])) for text in texts)
        room = encoder.room(tuple(labels))
        row["peer_cuts"] = room is not None and longest > room  # and reads no text at all where the prompt is too long
        try:
            peer.answers(rival, texts[: few // 4 + 1], labels, 8)
            row["peer_ms"] = timed(lambda n=labels: peer.answers(rival, texts[:few], n, 8))[0] * 1e3 / few
        except (RuntimeError, IndexError, ValueError) as error:
            row["peer_ms"], row["peer_error"] = None, str(error)[:100]
        rows.append(row)
    return {"case": "labels", "rows": rows}


def training(
    extractor: Extractor, rival: Any, *, device: str, batch_size: int, steps: int, workers: int, precision: str
) -> Result:
    """Rows a second of both trainers, the same rows, all nine labels asked of each row."""
    labels = shapes.label_names()
    warm_ups = 5 if device == "cpu" else 30  # a GPU's kernels are recorded as shapes come up
    rows = [row for _ in range(1 + (steps + warm_ups) * batch_size // 200) for row in shapes.sentences("train")]
    mine = ours.examples(rows, labels)
    theirs = [{**row, "ner_labels": labels} for row in rows]
    rates: dict[str, float] = {}
    gib: dict[str, tuple[float, float]] = {}
    common = {"steps": steps, "warm_ups": warm_ups, "batch_size": batch_size}

    def own() -> None:
        loop = {"num_workers": workers, "precision": precision}
        rates["ours"] = ours.training_rates(extractor, mine, device=device, **common, **loop)

    def other() -> None:
        cpu = {"use_cpu": True} if device == "cpu" else {}
        options = {"dataloader_num_workers": workers, "bf16": precision == "bf16", "others_lr": 2e-4, **cpu}
        rates["peer"] = peer.training_rates(rival, theirs, **common, **options)

    for name, work in (("ours", own), ("peer", other)):
        if device == "cpu":
            work()
        else:
            gib[name] = peak_memory(work)
    result = {
        "case": "training",
        "batch_size": batch_size,
        "workers": workers,
        "precision": precision,
        "ours": rates["ours"],
        "peer": rates["peer"],
        "ratio": rates["ours"] / rates["peer"],
    }
    if gib:
        (own_gib, own_reserved), (peer_gib, peer_reserved) = gib["ours"], gib["peer"]
        result |= {"ours_gib": own_gib, "peer_gib": peer_gib, "memory_ratio": own_gib / peer_gib}
        result |= {"ours_reserved_gib": own_reserved, "peer_reserved_gib": peer_reserved}
    return result


def half(extractor: Extractor, texts: Sequence[str], labels: Sequence[str], dtype: torch.dtype) -> Result:
    """How far scores in half precision lie from those in float32, on every real cell of some texts."""
    from spanwright.encoding import Row

    rows = [Row(tuple(word.text for word in extractor.split_words(text)), tuple(labels)) for text in texts]
    batch = extractor.encoder.encode(rows).to(extractor.model.device)
    before = extractor.model.dtype
    found = []
    for kind in (torch.float32, dtype):
        extractor.model.to(kind)
        with modes.inference(extractor.model):
            scores = extractor.model(batch)
            found.append(torch.sigmoid(scores.logits.float())[scores.cell_mask()])
    extractor.model.to(before)
    difference = (found[0] - found[1]).abs()
    return {
        "case": "half precision",
        "dtype": str(dtype)[6:],
        "largest": difference.max().item(),
        "mean": difference.mean().item(),
    }


def dense_decoding() -> Result:
    """Decoding token scores of 400 words and 10 labels, every one of them above the threshold: once for gliner."""
    from gliner.decoding.decoder import TokenDecoder

    words, count = 400, 10
    logits = torch.rand(1, words, count, 3, generator=torch.Generator().manual_seed(0)) * 4 + 0.05
    names = [[f"label {column}" for column in range(count)]]
    options = DecodeOptions()
    scores = TokenScores(logits, torch.ones(1, words, dtype=torch.bool), torch.ones(1, count, dtype=torch.bool))

    def own() -> list[ScoredSpan]:
        return resolve(named(Selection(scores, names, options, whole=False).arrays(), names)[0], options)

    def other() -> Any:
        classes = {column + 1: name for column, name in enumerate(names[0])}
        return TokenDecoder(config=None).decode([[""] * words], classes, logits, flat_ner=True, threshold=0.5)

    mine = side_by_side({"ours": own}, repeats=5)["ours"]["median"]
    theirs: list[Any] = []
    peers = timed(lambda: theirs.extend(other()))[0]
    same = [(s.start, s.end, s.label) for s in own()] == [(s.start, s.end + 1, s.entity_type) for s in theirs[0]]
    return {"case": "dense tokens", "right": same, "ours_ms": mine * 1e3, "peer_ms": peers * 1e3, "ratio": peers / mine}
