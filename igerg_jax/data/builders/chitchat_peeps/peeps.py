"""The people and expressions of Open Peeps in each split, and how a face is drawn.

No head is in two splits: no person of `valid` or `test` is in `train`. Half of the faces there also
combine eyes and a mouth that `train` never shows together.

Expressions were assigned to emotions by eye; `docs/faces/open_peeps.png` shows them all. As the
artist drew them, only joy has many: 8; fear, sadness and anger have 3, surprise has 2, disgust and
neutral have 1. So most expressions combine the eyes of one with the mouth of another.
"""

import io
import random

from igerg_jax.batch import EMOTIONS
from igerg_jax.data.builders.chitchat_peeps import drawing

# Left out: hair that covers brows or eyes (bangs2, longAfro, longBangs and mediumStraight hide 15 %
# or more of some expression), and the bear.
HEADS: dict[str, tuple[str, ...]] = {
    "train": tuple(
        """
        bangs bantuKnots bun2 cornrows dreads1 flatTop flatTopLong grayMedium hatHip longCurly
        medium2 mediumBangs mediumBangs2 mediumBangs3 mohawk mohawk2 noHair1 noHair2 noHair3 pomp
        shaved2 short1 short2 short3 short5 twists twists2""".split()
    ),
    "valid": tuple("buns cornrows2 dreads2 grayShort medium3 shaved1".split()),
    "test": tuple("afro bun grayBun hatBeanie hijab long medium1 shaved3 short4 turban".split()),
}
# Heads that may wear a beard.
BEARDED = frozenset(
    """
    afro cornrows2 dreads1 dreads2 flatTop flatTopLong grayShort hatBeanie hatHip mohawk mohawk2
    noHair1 noHair2 noHair3 pomp shaved1 shaved2 shaved3 short1 short2 short4 short5 turban twists
    twists2""".split()
)
# {split: {emotion: expressions}}: a name of Open Peeps, or "EYES/MOUTH": two names. What valid and
# test hold out are combinations: train shows their eyes and their mouths for the same emotion, but
# never together. Fear, say, has three pairs of eyes, and a fourth would have to be guessed.
EXPRESSIONS: dict[str, dict[str, tuple[str, ...]]] = {
    split: {emotion: tuple(listed.split()) for emotion, listed in by_emotion.items()}
    for split, by_emotion in {
        "train": {
            "surprise": """
                explaining awe hectic/explaining hectic/rage awe/explaining explaining/concernedFear
                explaining/rage smileTeethGap/explaining smileTeethGap/rage""",
            "fear": """
                hectic concerned fear hectic/concerned concerned/rage concerned/explaining
                fear/hectic""",
            "disgust": """
                blank blank/concerned blank/veryAngry suspicious/concerned suspicious/veryAngry
                eyesClosed/concerned contempt/concerned contempt/veryAngry cute/concerned""",
            "joy": """
                calm smile smileLOL smileBig lovingGrin1 lovingGrin2 eatingHappy smileTeethGap
                smile/smileLOL smile/lovingGrin1 calm/smileLOL lovingGrin1/calm""",
            "sadness": """
                solemn concernedFear tired solemn/tired solemn/concernedFear solemn/veryAngry
                concernedFear/tired concerned/tired concerned/veryAngry smile/solemn
                tired/veryAngry""",
            "anger": """
                veryAngry angryWithFang rage veryAngry/rage angryWithFang/veryAngry
                driven/veryAngry driven/angryWithFang""",
            "neutral": """
                serious smile/serious smile/suspicious smile/tired serious/suspicious
                serious/eyesClosed smileTeethGap/serious smileTeethGap/suspicious""",
        },
        "valid": {
            "surprise": "awe/concernedFear smileTeethGap/concernedFear",
            "fear": "concerned/hectic fear/explaining",
            "disgust": "suspicious/blank cute/blank",
            "joy": "eatingHappy/smileLOL smile/smileBig lovingGrin2/calm",
            "sadness": "concernedFear/veryAngry concerned/solemn smile/veryAngry",
            "anger": "driven/rage veryAngry/angryWithFang",
            "neutral": "serious/tired smileTeethGap/tired",
        },
        "test": {
            "surprise": "hectic/concernedFear awe/rage",
            "fear": "fear/concerned fear/rage",
            "disgust": "contempt/blank eyesClosed/blank cute/veryAngry",
            "joy": "calm/lovingGrin1 lovingGrin2/smileLOL",
            "sadness": "tired/solemn tired/concernedFear concernedFear/solemn",
            "anger": "rage/veryAngry rage/angryWithFang angryWithFang/rage",
            "neutral": "smile/eyesClosed smileTeethGap/eyesClosed",
        },
    }.items()
}
BEARDS = tuple(
    """
    chin full full2 full3 goatee1 goatee2 moustache1 moustache2 moustache4 moustache5 moustache6
    moustache7""".split()
)
GLASSES = ("glasses", "glasses2", "glasses5")  # the others cover brows or eyes
HELD_OUT_SHARE = 0.5  # of the faces of valid and test: have a combination that train lacks
BEARD_SHARE, GLASSES_SHARE = 0.4, 0.25

IMAGE_PIXELS = 72  # per side; training crops from it
JPEG_QUALITY = 85
_DARK_HAIR = ("#2c1b18", "#4a312c")  # would hide the line of the mouth in a beard
_SHIFT = 0.02  # at most, either way; fraction of the picture's side
_SCALE = (0.95, 1.05)
_TURN_DEGREES = 5.0


def pick(split: str, emotion: int, rng: random.Random) -> drawing.Peep:
    """Returns a person of the split whose face shows the emotion with that id."""
    held_out = split != "train" and rng.random() < HELD_OUT_SHARE
    head = rng.choice(HEADS[split])
    bearded = head in BEARDED and rng.random() < BEARD_SHARE
    return drawing.Peep(
        head=head,
        expression=rng.choice(EXPRESSIONS[split if held_out else "train"][EMOTIONS[emotion]]),
        beard=rng.choice(BEARDS) if bearded else "",
        glasses=rng.choice(GLASSES) if rng.random() < GLASSES_SHARE else "",
        skin=rng.choice(drawing.colours("skin")),
        hair=rng.choice([c for c in drawing.colours("headContrast") if c not in _DARK_HAIR]),
        clothing=rng.choice(drawing.colours("clothing")),
    )


def draw(peep: drawing.Peep, rng: random.Random, pixels: int = IMAGE_PIXELS) -> bytes:
    """Draws a person at a random position, size and angle on a random two-colour background.

    Returns:
      A JPEG of pixels x pixels, RGB; the same picture at any size, for one state of rng.
    """
    place = drawing.Place(
        centre=(0.5 + rng.uniform(-_SHIFT, _SHIFT), 0.5 + rng.uniform(-_SHIFT, _SHIFT)),
        scale=rng.uniform(*_SCALE),
        degrees=rng.uniform(-_TURN_DEGREES, _TURN_DEGREES),
        mirrored=rng.random() < 0.5,
    )
    near, far = ("#" + "".join(f"{rng.randint(40, 255):02x}" for _ in "rgb") for _ in range(2))
    background = drawing.Background(near, far, downwards=rng.random() < 0.5)
    out = io.BytesIO()
    drawing.render(peep, place, background, pixels).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
