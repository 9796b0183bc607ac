"""What is exported, loaded by transformers: the same logits, and the same hidden states."""

import byte_pairs
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import test_weights_vision_parity as towers
import weight_files as files

from igerg_jax.data import tokenizers
from igerg_jax.run.workdirs import TOKENIZER_FILE
from igerg_jax.tools.weights import exporting, importing, parameters
from igerg_jax.training import train_state

pytestmark = pytest.mark.parity
TEXTS = [
    f"{who} {verb} {what}, and it was {how}!"
    for who in ("I", "you", "my friend", "nobody here")
    for verb in ("saw", "don't like", "would never eat", "painted")
    for what in ("a house", "that film", "the sour cherries", "three dogs")
    for how in ("great", "so sad", "weird", "fine with me")
]


def a_run(config, folder):
    """(model, parameters) of a checkpoint that it writes in the workdir `folder`."""
    setup = train_state.set_up_training(config, config.data.tokenizer.vocab_size, parity.BART_IDS)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        around = 1.0 if path[-1].key == "scale" else 0.0
        return np.asarray(around + 0.2 * rng.standard_normal(leaf.shape), np.float32)

    params = jax.tree_util.tree_map_with_path(draw, setup.abstract_state.params)
    parameters.write(folder, params, config, "")
    return setup.model, jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize("norm_first", [False, True], ids=["bart", "mbart"])
def test_transformers_gives_the_same_logits(tmp_path, norm_first):
    torch, library = parity.libraries()
    config = files.text_config(model__text__norm_first=norm_first, generate__max_tokens=8)
    model, params = a_run(config, tmp_path / "run")
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    theirs, report = library.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(theirs).__name__.startswith("MBart" if norm_first else "Bart")
    vocabulary = config.data.tokenizer.vocab_size
    tokens, mask = parity.inputs(vocabulary, 4, 12)
    decoder, _ = parity.inputs(vocabulary, 4, 6, seed=1)
    with torch.no_grad():
        found = theirs.eval()(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            decoder_input_ids=torch.tensor(decoder).long(),
        )
    _, logits = parity.text_logits(model, params, tokens, mask, decoder)
    towers.assert_close(logits, found.logits, 1e-4)
    answer = theirs.generate(torch.tensor(tokens[:1]).long())
    assert answer.shape[1] <= config.generate.max_tokens + 1


@pytest.mark.parametrize("class_token", [True, False], ids=["vit", "siglip"])
def test_transformers_sees_the_same(tmp_path, class_token):
    torch, library = parity.libraries()
    gelu = "exact" if class_token else "tanh"
    config = towers.config_of_vit(class_token=class_token, gelu=gelu, norm_epsilon=1e-6)
    _, params = a_run(config, tmp_path / "run")
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    kind = library.ViTModel if class_token else library.SiglipVisionModel
    options = {"add_pooling_layer": False} if class_token else {}
    theirs, report = kind.from_pretrained(
        tmp_path / "hf" / "vision", output_loading_info=True, **options
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    images = towers.pixels()
    with torch.no_grad():
        found = theirs.eval()(towers.as_theirs(torch, images)).last_hidden_state
    towers.assert_close(towers.towers_output(config, params, images)[0], found, 1e-4)


@pytest.mark.parametrize("class_token", [True, False], ids=["class-token", "patches-alone"])
def test_code_of_its_own_sees_the_same_through_a_convolution_stem(tmp_path, class_token):
    torch, library = parity.libraries()
    settings = dict(stem="convolution", class_token=class_token, gelu="exact", norm_epsilon=1e-6)
    config = towers.config_of_vit(**settings)
    _, params = a_run(config, tmp_path / "run")
    said = exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    assert "trust_remote_code=True" in said
    theirs, report = library.AutoModel.from_pretrained(
        tmp_path / "hf" / "vision", output_loading_info=True, trust_remote_code=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    images = towers.pixels()
    with torch.no_grad():
        found = theirs.eval()(towers.as_theirs(torch, images)).last_hidden_state
    towers.assert_close(towers.towers_output(config, params, images)[0], found, 1e-4)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_a_sentencepiece_model_becomes_an_auto_tokenizer_with_the_same_ids(tmp_path, model_type):
    _, library = parity.libraries()
    ours = tokenizers.train_sentencepiece(TEXTS, model_type, 300)
    config = files.text_config(model__text__norm_first=False)
    config.data.tokenizer.vocab_size = ours.vocab_size
    a_run(config, tmp_path / "run")
    ours.save(tmp_path / "run" / TOKENIZER_FILE)
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    theirs = library.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in (*TEXTS, "  two  spaces ", "café 😀", "ｆｕｌｌ width", "tab\there"):
        assert theirs(text)["input_ids"] == ours.encode(text), text
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    roles = (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.mask_token_id)
    special = ours.special
    assert roles == (special.pad, special.bos, special.eos, special.mask)
    back = importing.run(config, str(tmp_path / "hf"), "", str(tmp_path / "back"), False)
    assert "no tokenizer came with it" not in back


def test_the_exported_tokenizer_gives_the_same_ids(tmp_path):
    _, library = parity.libraries()
    ours = tokenizers.load("byte_level_bpe", byte_pairs.train(tmp_path / "bpe") / "tokenizer.json")
    config = files.text_config(data__tokenizer__kind="byte_level_bpe")
    config.data.tokenizer.vocab_size = ours.vocab_size
    a_run(config, tmp_path / "run")
    ours.save(tmp_path / "run" / TOKENIZER_FILE)
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    theirs = library.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("Plain words, isn't it?", "  two  spaces ", "café 😀"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    roles = (theirs.pad_token_id, theirs.eos_token_id, theirs.mask_token_id)
    assert roles == (ours.special.pad, ours.special.eos, ours.special.mask)
    back = importing.run(config, str(tmp_path / "hf"), "", str(tmp_path / "back"), False)
    assert "it came without a tokenizer" not in back


def test_their_image_processor_scales_pixels_as_ours(tmp_path):
    torch, library = parity.libraries()
    a_run(towers.config_of_vit(class_token=True), tmp_path / "run")
    exporting.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    images = towers.pixels()
    processor = library.ViTImageProcessor.from_pretrained(tmp_path / "hf" / "vision")
    found = processor(list(images), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found, towers.as_theirs(torch, images).numpy(), atol=1e-5)
