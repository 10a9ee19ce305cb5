"""Drawing responses: the sampler, the sampling law, and the random numbers behind each token."""

from lit_align.sampling.decoding import Decoding, draw
from lit_align.sampling.generate import NextToken, generate
from lit_align.sampling.mixture import Mixture
from lit_align.sampling.sampler import Sampler
from lit_align.sampling.uniforms import token_uniforms

__all__ = ["Decoding", "Mixture", "NextToken", "Sampler", "draw", "generate", "token_uniforms"]
