"""The vision tower of an igerg_jax model with a convolution stem, in PyTorch, for transformers.

    AutoModel.from_pretrained(FOLDER, trust_remote_code=True)(pixel_values).last_hidden_state

`igerg weights export --format=hf` writes this file beside the weights. The stem is ours, the
encoder is SigLIP's. It needs nothing of igerg_jax.
"""

import torch
from torch import nn
from transformers import PreTrainedModel, SiglipVisionConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.siglip.modeling_siglip import SiglipEncoder

STEM_EPSILON = 1e-6


class IgergVisionConfig(SiglipVisionConfig):
    """SigLIP's, and whether a learned vector comes before the patches."""

    model_type = "igerg_vision"
    class_token: bool = False


class Embeddings(nn.Module):
    """3x3 convolutions of stride 2 down to the patch grid, then 1x1; and positions."""

    def __init__(self, config: IgergVisionConfig):
        super().__init__()
        halvings = config.patch_size.bit_length() - 1
        widths = [max(config.hidden_size // 2 ** (halvings - 1 - i), 8) for i in range(halvings)]
        pairs = list(zip([config.num_channels, *widths], widths, strict=False))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2) for a, b in pairs)
        self.norms = nn.ModuleList(nn.LayerNorm(b, eps=STEM_EPSILON) for _, b in pairs)
        last = [config.num_channels, *widths][-1]
        self.projection = nn.Conv2d(last, config.hidden_size, 1)
        count = (config.image_size // config.patch_size) ** 2 + config.class_token
        self.position_embedding = nn.Embedding(count, config.hidden_size)
        self.class_token = None
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = pixel_values
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # "SAME" for an even size and stride 2: one more column and row, at the end.
            x = convolution(nn.functional.pad(x, (0, 1, 0, 1)))
            x = norm(x.movedim(1, -1)).movedim(-1, 1)
            x = nn.functional.gelu(x, approximate="tanh")
        x = self.projection(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        return x + self.position_embedding.weight


class IgergVisionModel(PreTrainedModel):
    """Maps pixels in [-1, 1] to a vector for each patch."""

    config_class = IgergVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: IgergVisionConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **options) -> BaseModelOutput:
        encoded = self.encoder(inputs_embeds=self.embeddings(pixel_values)).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.post_layernorm(encoded))
