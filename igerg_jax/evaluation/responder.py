"""A trained model, compiled once, that responds to conversations.

Behind one-off responses, the terminal chat and the demo page. Letters as in `igerg_jax.batch`;
R = rows of one call.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from igerg_jax import lexicon
from igerg_jax.batch import EMOTION_ID, EMOTIONS, NUM_EMOTIONS
from igerg_jax.data import image_domain, pipeline
from igerg_jax.data.image_domain import Domain
from igerg_jax.data.pipeline import Picture
from igerg_jax.data.tokenizers import Tokenizer
from igerg_jax.decoding import reranking, search
from igerg_jax.decoding.guidance import RANGE
from igerg_jax.decoding.strategies import STRATEGIES, Beam
from igerg_jax.errors import UserError, check_known
from igerg_jax.evaluation import trained_run
from igerg_jax.evaluation.predictions import image_probabilities
from igerg_jax.evaluation.samples import by_emotion, seen_in
from igerg_jax.models import igerg
from igerg_jax.parallel import sharding
from igerg_jax.run import checkpoint
from igerg_jax.setup import Jitted, Setup, replicated_key

Turn = tuple[str, Picture | None]  # words, and the speaker's image or None
Probabilities = dict[str, float]  # by emotion


class Answer(NamedTuple):
    """A response, and the emotions that were seen in the images and found in its words."""

    text: str
    score: float  # log-probability, or the score by which it was chosen among several
    # Each is None where the model has no part that predicts it.
    seen: tuple[Probabilities | None, ...]  # [N], in each slot's image; None = no image
    sequence: Probabilities | None  # of all images together; None without any
    judge: Probabilities | None  # the judge's, of the text
    spoken: str  # the emotion that the lexicon finds in the text


class _Row(NamedTuple):
    """One response to generate."""

    turns: Sequence[Turn]
    response_image: Picture | None
    emotion: str | None


class Responder:
    """Answers conversations with one model. Not thread-safe.

    It compiles once per strategy, for one response and for `NUM_EMOTIONS` of them. The guidance,
    the emotion and the faces may change from call to call.
    """

    def __init__(
        self, setup: Setup, tokenizer: Tokenizer, params: Any, domain: Domain | None = None
    ):
        """
        Args:
          params: on the setup's mesh.
          domain: of the images that the model was trained on; None = not known.

        Raises:
          UserError: wrong `generate` settings, or as `reranking.load`.
        """
        self.config = setup.config
        self._setup, self._tokenizer, self._params = setup, tokenizer, params
        self._domain = domain
        self._settings = search.Settings.of(setup.config)
        self._backward = reranking.load(setup, tokenizer.digest)
        self._key = replicated_key(setup)
        self._predict, self._judge = (
            Jitted(setup, _predict_emotions),
            Jitted(setup, _judge),
        )
        self._generators: dict[str, Callable[..., search.Responses]] = {}

    @classmethod
    def open(cls, path: epath.PathLike, config: Any | None = None) -> Self:
        """A responder of the checkpoint under `path`.

        Args:
          path, config: as for `trained_run.open_run`. Without a config, it is on one device.

        Raises:
          UserError: there is no checkpoint, or it has no tokenizer.
        """
        devices = jax.devices()[:1] if config is None else None
        run = trained_run.open_run(path, config, batch_size=1, devices=devices)
        if run.tokenizer is None:
            raise UserError(f"'{path}' was trained on synthetic batches: it has no words")
        domain = image_domain.read(checkpoint.tokenizer_file(run.folder).parent)
        return cls(run.setup, run.tokenizer, run.params, domain)

    @property
    def guidance(self) -> float:
        """`generate.guidance`."""
        return self._settings.guidance.guidance

    @property
    def strategy(self) -> str:
        """`generate.strategy`."""
        return self.config.generate.strategy

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names that `respond` takes."""
        return tuple(STRATEGIES)

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._params))

    @property
    def sees_faces(self) -> bool:
        """Whether the model is shown the image of the turn that it writes."""
        data = self.config.data
        return bool(data.use_images and data.include_response_image and not data.feature_dim)

    @property
    def can_be_conditioned(self) -> bool:
        """Whether an emotion can be named."""
        return self.config.model.emotion_embedding != "none"

    def require_conditioning(self) -> None:
        """Raises UserError if no emotion can be named."""
        if not self.can_be_conditioned:
            raise UserError(
                "this model cannot be conditioned on an emotion (model.emotion_embedding='none')"
            )

    def compile(self, strategies: Iterable[str], for_each_face: bool) -> None:
        """Compiles, by answering once, what answers with these strategies need.

        Args:
          for_each_face: also what `respond_to_each_face` needs.
        """
        side = self.config.data.image_size
        blank = np.zeros((side, side, 3), np.uint8) if self.sees_faces else None
        if blank is not None:
            self.see(blank)
        for strategy in strategies:
            self.respond([("hello", None)], blank, strategy=strategy)
            if for_each_face and blank is not None:
                faces = [blank] * NUM_EMOTIONS
                self.respond_to_each_face([("hello", None)], faces, strategy=strategy)

    def read(self, picture: Picture) -> np.ndarray:
        """The pixels that the model is shown of an image: uint8 [H, W, 3], another `Picture`.

        Raises:
          UserError: it cannot be read, or the model reads precomputed features instead.
        """
        return pipeline.read_pixels(picture, self.config)

    def see(self, picture: Picture) -> Probabilities | None:
        """The emotion seen in a single face; None where the model names none in faces. Raises
        UserError as `read`."""
        if not self.sees_faces:
            raise UserError("this model is not shown the face of the responder")
        # A turn needs words, but they do not enter this prediction.
        example = self._example(_Row([("hello", None)], self.read(picture), None))
        batch, named_RxC, _ = self._place([example], self._named(None)[None], draw=0)
        found, _ = jax.device_get(self._predict(self._params, batch, named_RxC))
        mask_N = example["image_mask"][0]
        seen = seen_in({name: p[0] for name, p in found.items()}, mask_N)
        return seen[int(mask_N.argmax())]

    def is_unfamiliar(self, picture: Picture) -> bool:
        """Whether an image is unlike those that the model was trained on; False where that is not
        known (docs/reliability.md). Raises UserError as `read`."""
        return self._domain is not None and bool(self._domain.outside(self.read(picture)[None])[0])

    def respond(
        self,
        turns: Sequence[Turn],
        response_image: Picture | None = None,
        emotion: str | None = None,
        guidance: float | None = None,
        strategy: str | None = None,
        draw: int = 0,
    ) -> Answer:
        """The response to a conversation.

        Args:
          turns: oldest first; the model is given the last `data.context_turns` of them.
          response_image: of the responding turn.
          emotion: to respond with; None = the one seen in that image.
          guidance: None = `generate.guidance`.
          strategy: one of `igerg_jax.decoding.strategies.STRATEGIES`; None = `generate.strategy`.
          draw: selects the sample, where the strategy samples: same number, same response.

        Raises:
          UserError: no words, an image that cannot be read, or a wrong choice.
        """
        row = _Row(turns, response_image, emotion)
        return self._answers([row], guidance, strategy, draw)[0]

    def respond_to_each_face(
        self,
        turns: Sequence[Turn],
        faces: Sequence[Picture],
        guidance: float | None = None,
        strategy: str | None = None,
        draw: int = 0,
    ) -> list[Answer]:
        """The responses to one conversation with each of `NUM_EMOTIONS` faces, in one batch."""
        if len(faces) != NUM_EMOTIONS:
            raise ValueError(f"{len(faces)} faces instead of {NUM_EMOTIONS}")
        rows = [_Row(turns, face, None) for face in faces]
        return self._answers(rows, guidance, strategy, draw)

    def _answers(
        self, rows: list[_Row], guidance: float | None, strategy: str | None, draw: int
    ) -> list[Answer]:
        guidance = self.guidance if guidance is None else float(guidance)
        if not RANGE.allows(guidance):
            raise UserError(f"the guidance must be a number of at least 0, not {guidance}")
        generate = self._generator(strategy or self.strategy)
        examples = [self._example(row) for row in rows]
        named_RxC = np.stack([self._named(row.emotion) for row in rows])
        batch, named_RxC, rows_R = self._place(examples, named_RxC, draw)
        found, target_RxC = self._predict(self._params, batch, named_RxC)
        responses = generate(
            self._params,
            batch,
            self._key,
            rows_R,
            target_RxC if self.can_be_conditioned else None,
            np.float32(guidance),
        )
        if "judge_network" in self._params:
            found["judge"] = self._judge(self._params, responses.tokens_BxT)
        outputs = jax.device_get((responses.tokens_BxT, responses.score_B, found))
        # Rows after the last example only fill the mesh.
        return [
            self._describe(example["image_mask"][0], *jax.tree.map(lambda x, i=i: x[i], outputs))
            for i, example in enumerate(examples)
        ]

    def _generator(self, strategy: str) -> Callable[..., search.Responses]:
        if strategy not in self._generators:
            check_known(strategy, STRATEGIES, f"there is no strategy '{strategy}'")
            config = self.config.copy_and_resolve_references()
            config.generate.strategy = strategy
            settings = search.Settings.of(config)
            backward = self._backward if isinstance(settings.strategy, Beam) else None
            self._generators[strategy] = search.Respond(self._setup, settings, backward)
        return self._generators[strategy]

    def _example(self, row: _Row) -> dict[str, np.ndarray]:
        return pipeline.single_example(self._tokenizer, self.config, row.turns, row.response_image)

    def _named(self, emotion: str | None) -> np.ndarray:
        """float32 [C]: 1 for a named emotion; all 0 for None."""
        named_C = np.zeros(NUM_EMOTIONS, np.float32)
        if emotion is not None:
            check_known(emotion, EMOTIONS, f"there is no emotion '{emotion}'")
            self.require_conditioning()
            named_C[EMOTION_ID[emotion]] = 1
        return named_C

    def _place(
        self, examples: list[dict[str, np.ndarray]], named_RxC: np.ndarray, draw: int
    ) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """The batch, `named` and the numbers of the rows, on the mesh.

        Where the rows do not divide evenly over the data shards, copies of the first one are added.
        """
        placed = sharding.batch_sharding(self._setup.mesh)
        shards = sharding.batch_shards(self._setup.mesh)
        size = -(-len(examples) // shards) * shards
        row_b = sharding.process_rows(placed, size)
        row_b[row_b >= len(examples)] = 0
        batch = {name: np.concatenate([e[name] for e in examples]) for name in examples[0]}
        batch = {name: array[row_b] for name, array in batch.items()}
        numbers_b = np.full(len(row_b), draw, np.int32)
        return sharding.to_devices((batch, named_RxC[row_b], numbers_b), placed)

    def _describe(
        self,
        image_mask_N: np.ndarray,
        tokens_T: np.ndarray,
        score: float,
        found: Mapping[str, np.ndarray],
    ) -> Answer:
        text = self._tokenizer.decode(tokens_T)
        has_sequence = "sequence" in found and image_mask_N.any()
        return Answer(
            text=text,
            score=float(score),
            seen=tuple(seen_in(found, image_mask_N)),
            sequence=by_emotion(found["sequence"]) if has_sequence else None,
            judge=by_emotion(found["judge"]) if "judge" in found else None,
            spoken=EMOTIONS[lexicon.label(text)],
        )


def _predict_emotions(
    model: igerg.Igerg, params: Any, batch: Mapping[str, jax.Array], named_BxC: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """(what `image_probabilities` returns, probabilities of the emotion to respond with)."""
    found = image_probabilities(model, params, batch)
    if "images" not in found:
        return found, named_BxC
    shown_BxN = igerg.response_image(batch, model.special)
    seen_BxC = igerg.target_emotion(jnp.log(found["images"]), shown_BxN)
    return found, jnp.where(named_BxC.any(1, keepdims=True), named_BxC, seen_BxC)


def _judge(model: igerg.Igerg, params: Any, tokens_BxT: jax.Array) -> jax.Array:
    """The judge's probabilities, float32 [B, C], of each response's emotion."""
    return jax.nn.softmax(model.apply({"params": params}, tokens_BxT, method="judge_tokens"))
