"""Shared by the tests against torch and transformers: their models, and ours built from them."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from igerg_jax.batch import SpecialIds
from igerg_jax.models.igerg import Encoded
from igerg_jax.models.partitioning import lookup
from igerg_jax.run import checkpoint
from igerg_jax.tools.weights import importing
from igerg_jax.training import train_state

BART_IDS = SpecialIds(pad=1, bos=0, eos=2, unk=3, mask=4, decoder_start=2)


def libraries():
    """Returns (torch, transformers), or skips the test if either is missing."""
    torch = pytest.importorskip("torch", reason="needs torch: ./launch/test.sh --parity")
    library = pytest.importorskip(
        "transformers", reason="needs transformers: ./launch/test.sh --parity"
    )
    library.utils.logging.disable_progress_bar()
    return torch, library


def spread(torch, model, seed: int, std: float) -> None:
    """Redraws every weight, so that a randomly initialised model makes confident predictions.

    With the default initialisation its logits are so close that rounding decides the largest.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(around + drawn * (0.1 if parameter.ndim == 1 else std))


def bart(folder: pathlib.Path, seed: int = 0, std: float = 0.1, eos: float = 0.0, **sizes):
    """A BART of these sizes in eval mode, saved in `folder`; `eos` is added to EOS's logit."""
    torch, library = libraries()
    model = library.BartForConditionalGeneration(
        library.BartConfig(
            vocab_size=sizes["vocabulary"],
            d_model=sizes["width"],
            encoder_layers=sizes["layers"],
            decoder_layers=sizes["layers"],
            encoder_attention_heads=sizes["heads"],
            decoder_attention_heads=sizes["heads"],
            encoder_ffn_dim=sizes["mlp_width"],
            decoder_ffn_dim=sizes["mlp_width"],
            max_position_embeddings=sizes["positions"],
        )
    )
    spread(torch, model, seed, std)
    if eos:
        with torch.no_grad():  # the decoder's bias and EOS's embedding share one direction
            model.model.decoder.layers[-1].final_layer_norm.bias[0] += 2.0
            model.model.shared.weight[BART_IDS.eos, 0] += eos / 2.0
    model.eval().save_pretrained(folder)
    return model


def config_of_bart(**sizes):
    """Our config for the same model."""
    text = dict(
        width=sizes["width"],
        encoder_layers=sizes["layers"],
        decoder_layers=sizes["layers"],
        heads=sizes["heads"],
        mlp_width=sizes["mlp_width"],
        max_positions=sizes["positions"],
        norm_first=False,
        scan_layers=True,
    )
    changes = {f"model__text__{key}": value for key, value in text.items()}
    return small.make_config(**changes, data__tokenizer__vocab_size=sizes["vocabulary"])


def imported(config, out: pathlib.Path, text: str = "", vision: str = ""):
    """Returns (model, parameters) of a run that starts from the imported checkpoint."""
    importing.run(config, text, vision, str(out), False)
    setup = train_state.set_up_training(
        config, config.data.tokenizer.vocab_size, BART_IDS, jax.devices()[:1]
    )
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.abstract_state.params)
    params, _ = checkpoint.load_params(out, setup, zeros, "")
    return setup.model, jax.tree.map(jnp.asarray, params)


def inputs(vocabulary: int, rows: int, length: int, seed: int = 0):
    """Returns (ids int32 [rows, length], padded on the right; bool mask of the real ones)."""
    rng = np.random.default_rng(seed)
    used = rng.integers(2, length + 1, (rows, 1))
    ids = rng.integers(5, vocabulary, (rows, length))
    at = np.arange(length)[None]
    ids = np.where(at == used - 1, BART_IDS.eos, ids)
    mask = at < used
    return np.where(mask, ids, BART_IDS.pad).astype(np.int32), mask


def encode_words(model, tokens_BxS, mask_BxS) -> Encoded:
    """Words as BART encodes them, [B, S, D]: no CLS, no image, no type and no turn; for `apply`."""
    length = tokens_BxS.shape[1]
    x = lookup(model.token_embedding_VxD, tokens_BxS) + model.encoder_positions[None, :length]
    x = jnp.where(mask_BxS[..., None], x, 0.0)
    hidden_BxSxD = model._encode_embedded(x, mask_BxS)
    return Encoded(hidden_BxSxD, mask_BxS, None, None, hidden_BxSxD)


def text_logits(model, params, tokens_BxS, mask_BxS, decoder_BxT):
    """Returns (encoder output [B, S, D], logits [B, T, V]) of our text model alone, as in BART."""

    @jax.jit
    def run(params, tokens_BxS, mask_BxS, decoder_BxT):
        variables = {"params": params}
        encoded = model.apply(variables, tokens_BxS, mask_BxS, method=encode_words)
        hidden = model.apply(
            variables, decoder_BxT, encoded.hidden_BxLxD, encoded.mask_BxL, None, method="decode"
        )
        return encoded.hidden_BxLxD, hidden @ params["token_embedding"].T

    return run(params, tokens_BxS, mask_BxS, decoder_BxT)
