"""The files that a made-up run leaves: nothing here was measured; the words are test data."""

import base64
import io
import json
import math

import numpy as np

from igerg_jax.batch import EMOTIONS

CUT = {"contexts": 0.034, "responses": 0.576, "context_tokens": 96, "response_tokens": 20}
SIZES = {"windows": 1512, "conversations": 43, "faces": 97, "generated": 256}
OBJECTIVES = {
    "image_emotion": (1.95, 0.35),
    "sequence_emotion": (1.94, 0.6),
    "text_denoising": (8.3, 4.6),
    "text_emotion": (1.95, 0.5),
    "masked_multimodal": (10.1, 5.4),
    "emotional_response": (8.3, 4.3),
    "image_text_contrastive": (2.4, 1.2),
}
LINES = {
    "surprise": "wow, I did not expect that at all!",
    "fear": "I'm scared, what if it goes wrong?",
    "disgust": "ugh, that smells <b>awful</b> & looks worse",
    "joy": "haha that's great, I'm so happy for you :)",
    "sadness": "I miss my old friends, it's been a lonely week since I moved to the new town",
    "anger": "stop it, this makes me so angry",
    "neutral": "I work from nine to five on weekdays.",
}


def face(emotion: str, rng: np.random.Generator, side: int = 64) -> str:
    """A drawn stand-in for a face, as a data URI."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(180, 255, 3)))
    draw, s = ImageDraw.Draw(image), side / 64
    draw.ellipse([8 * s, 8 * s, 56 * s, 56 * s], fill=(252, 210, 80), outline=(60, 50, 20))
    for x in (22, 38):
        draw.ellipse([x * s, 24 * s, (x + 5) * s, 30 * s], fill=(60, 50, 20))
    mouth = {"joy": (20, 160), "sadness": (200, 340), "anger": (200, 340), "surprise": (0, 360)}
    start, end = mouth.get(emotion, (60, 120))
    draw.arc([22 * s, 34 * s, 42 * s, 50 * s], start, end, fill=(60, 50, 20), width=int(3 * s))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def seen(emotion: str, rng: np.random.Generator) -> dict[str, float]:
    """Seven made-up probabilities that lean towards one emotion."""
    leaning = emotion if rng.random() < 0.8 else str(rng.choice(EMOTIONS))
    values = rng.dirichlet(np.where(np.array(EMOTIONS) == leaning, 8.0, 0.4))
    return dict(zip(EMOTIONS, values.tolist(), strict=True))


def make_samples(count: int) -> list[dict]:
    rng = np.random.default_rng(0)

    def turn(labelled: bool = True, image: bool = True) -> dict:
        emotion = str(rng.choice(EMOTIONS))
        return {
            "text": LINES[emotion],
            "emotion": emotion if labelled else None,
            "seen": seen(emotion, rng) if image else None,
            "image": face(emotion, rng) if image else None,
            "has_image": image,
        }

    samples = []
    for index in range(count):
        turns = [turn(image=rng.random() > 0.15) for _ in range(rng.integers(1, 6))]
        meant = turn(labelled=index % 5 != 4)
        said = meant["emotion"] if rng.random() < 0.6 else str(rng.choice(EMOTIONS))
        samples.append(
            {
                "index": index,
                "context": turns,
                "response_image": meant if index % 4 else None,
                "reference": meant["text"],
                "reference_emotion": meant["emotion"],
                "generated": LINES[said or "neutral"] if index != 3 else "",
                "spoken_emotion": said or "neutral",
                "judge": seen(said or "neutral", rng) if index % 2 else None,
            }
        )
    return samples


def make_records(steps: int, every: int) -> list[dict]:
    rng = np.random.default_rng(1)
    records = []
    for step in range(every, steps + 1, every):
        losses = {
            f"loss/{name}": last + (first - last) * math.exp(-4 * step / steps) + rng.normal(0, 0.1)
            for name, (first, last) in OBJECTIVES.items()
        }
        records.append(
            {
                "step": step,
                "wall_seconds": step * 0.3,
                "loss/total": sum(losses.values()),
                **losses,
                "learning_rate": 1e-3 * min(1, step / 50) * (1 - step / steps * 0.99),
                "examples_per_second": 100 + rng.normal(0, 4),
                "input_wait_fraction": 0.02 + 0.01 * rng.random(),
                "grad_norm": 2 + rng.exponential(1),
            }
        )
        if step % (steps // 4) == 0:
            share = step / steps
            records.append(
                {
                    "step": step,
                    "valid/image_emotion_accuracy": 0.2 + 0.6 * share,
                    "valid/sequence_emotion_accuracy": 0.2 + 0.5 * share,
                    "valid/response_perplexity": 60 + 300 * math.exp(-4 * share),
                }
            )
    return records


def make_start(first_step: int, last_step: int, stopped: str) -> dict:
    return {
        "started": f"2026-01-02T03:04:{first_step // 10:02}+00:00",
        "stopped": stopped,
        "first_step": first_step,
        "last_step": last_step,
        "seconds": 93.7,
        "command": "main.py --config=<made up>",
        "commit": "0123456789abcdef",
        "versions": {"python": "3.99", "jax": "9.9"},
        "host": "host-of-tests",
        "seed": 5,
    }


def make_summary() -> dict:
    rng = np.random.default_rng(2)
    evaluation = {
        "image_emotion_accuracy": 0.8123,
        "image_emotion_macro_f1": 0.774,
        "image_emotion_majority_rate": 0.2418,
        "sequence_emotion_accuracy": 0.702,
        "sequence_emotion_macro_f1": 0.61,
        "sequence_emotion_majority_rate": 0.31,
        "response_perplexity": 65.4,
        "unigram_perplexity": 214.8,
        "rouge_1": 13.2,
        "rouge_2": 2.6,
        "rouge_l": 11.9,
        "entropy_4": 5.71,
        "reference_entropy_4": 7.9,
        "mean_words": 7.4,
        "reference_mean_words": 9.1,
        "response_emotion_accuracy": 0.534,
        "image_emotion_accuracy_standard_error": 0.0456,
    }
    evaluation |= {f"bleu_{n}": 15.0 / n**2 for n in range(1, 5)}
    evaluation |= {f"dist_{n}": 0.02 * n for n in range(1, 5)}
    evaluation |= {f"reference_dist_{n}": 0.09 * n for n in range(1, 5)}
    confusion = rng.poisson(2, (7, 7)) + np.diag(rng.integers(20, 80, 7))
    return {
        "name": "made-up run",
        "preset": "test data",
        "steps": 600,
        "final_step": 600,
        "resumed_from": 200,
        "wall_seconds": 187.4,
        "examples_per_second": 103.2,
        "seconds_to_first_step": 21.3,
        "parameters": {"vision": 420_000, "text": 1_510_000, "judge": 60_000, "total": 2_012_345},
        "devices": "1 x cpu",
        "objectives": {
            k: {"summary": f"learn {k} & more", "first_loss": a, "last_loss": b}
            for k, (a, b) in OBJECTIVES.items()
        },
        "skipped_steps": 0,
        "history": {
            "starts": 2,
            "goodput": 0.713,
            "entries": [make_start(0, 210, "killed"), make_start(200, 600, "finished")],
        },
        "evaluation": {"valid": {k: v * 1.02 for k, v in evaluation.items()}, "test": evaluation},
        "confusion_matrix": {"test": confusion.tolist()},
        "response_matrix": {"test": confusion.T.tolist()},
        "sizes": {"test": SIZES, "valid": SIZES | {"faces": None}},
        "cut": {"test": CUT, "valid": CUT | {"contexts": None}},
    }


def fill(folder, samples: int = 6) -> None:
    config = {"name": "made-up run", "data": {"dataset": "test <data>"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(make_summary()))
    write_lines(folder / "metrics.jsonl", make_records(600, 10))
    write_lines(folder / "samples.jsonl", make_samples(samples))


def write_lines(path, objects) -> None:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))
