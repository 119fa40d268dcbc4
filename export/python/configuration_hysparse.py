"""Configuration of HySparse models for Hugging Face transformers 5.

The keys are those of config.json, which `hysparse export` writes. A key that is missing takes the default here.
"""

from transformers import PretrainedConfig

LAYER_TYPES = ("full_attention", "sparse_attention", "sliding_attention")
GATES = ("none", "headwise", "elementwise")


class HySparseConfig(PretrainedConfig):
    """
    Attention of each layer (`layer_types`):
        full_attention: every earlier token; chooses, for each token and key/value head, the blocks of
            `sparse_block_size` tokens that the sparse layers after it read.
        sparse_attention: the chosen blocks of the full layer before it (`sparse_topk_tokens` tokens), with that layer's
            keys and values, and a window of `sliding_window` tokens with its own.
        sliding_attention: the window alone.

    Mixture of experts when `num_experts` > 0, in every layer from `first_k_dense_replace` on.
    """

    model_type = "hysparse"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(
        self,
        vocab_size=320,
        hidden_size=256,
        num_hidden_layers=None,  # the length of layer_types
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=704,
        layer_types=None,
        sliding_window=128,
        sparse_block_size=64,
        sparse_topk_tokens=1024,
        attention_gate="none",  # of sparse and sliding layers: none, headwise or elementwise
        full_attention_gate="none",  # of full layers
        attention_sinks=False,
        use_qk_norm=False,
        share_kv=True,  # sparse layers read the full layer's keys and values (False: the chosen blocks of their own)
        share_kv_window=False,  # their window reads the full layer's, too
        sparse_window_branch=True,  # they have a window
        num_experts=0,
        num_experts_per_tok=0,
        moe_intermediate_size=0,
        n_shared_experts=0,
        first_k_dense_replace=0,
        norm_topk_prob=True,
        scoring_func="softmax",
        routed_scaling_factor=1.0,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
        rope_parameters=None,  # what transformers 5 calls the two above
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        max_position_embeddings=0,
        initializer_range=0.02,
        use_cache=True,
        **kwargs,
    ):
        if rope_parameters is not None and rope_parameters.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters: {rope_parameters}: rope_type must be default")
        layer_types = list(layer_types if layer_types is not None else ["full_attention"] * (num_hidden_layers or 1))
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = len(layer_types) if num_hidden_layers is None else num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.sliding_window = sliding_window
        self.sparse_block_size = sparse_block_size
        self.sparse_topk_tokens = sparse_topk_tokens
        self.attention_gate = attention_gate
        self.full_attention_gate = full_attention_gate
        self.attention_sinks = attention_sinks
        self.use_qk_norm = use_qk_norm
        self.share_kv = share_kv
        self.share_kv_window = share_kv_window
        self.sparse_window_branch = sparse_window_branch
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.n_shared_experts = n_shared_experts
        self.first_k_dense_replace = first_k_dense_replace
        self.norm_topk_prob = norm_topk_prob
        self.scoring_func = scoring_func
        self.routed_scaling_factor = routed_scaling_factor
        self.rope_theta = rope_theta
        self.partial_rotary_factor = partial_rotary_factor
        self.rms_norm_eps = rms_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
        self.tie_word_embeddings = tie_word_embeddings
        # After the base class, whose checks know no sparse_attention.
        self.layer_types = layer_types
        self.validate()

    def validate(self):
        """In place of the base class's."""
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"layer_types: {len(self.layer_types)} entries for {self.num_hidden_layers} layers")
        for layer, kind in enumerate(self.layer_types):
            if kind not in LAYER_TYPES:
                raise ValueError(f"layer_types: layer {layer}: {kind!r}: must be one of {LAYER_TYPES}")
            if kind == "sparse_attention" and "full_attention" not in self.layer_types[:layer]:
                raise ValueError(f"layer_types: layer {layer} is sparse, with no full layer before it")
        for key in ("attention_gate", "full_attention_gate"):
            if getattr(self, key) not in GATES:
                raise ValueError(f"{key}: {getattr(self, key)!r}: must be one of {GATES}")
        if self.scoring_func not in ("softmax", "sigmoid"):
            raise ValueError(f"scoring_func: {self.scoring_func!r}: must be softmax or sigmoid")

    # What a layer is, for the model and the cache.
    def is_moe(self, layer):
        return self.num_experts > 0 and layer >= self.first_k_dense_replace

    def has_window(self, layer):
        kind = self.layer_types[layer]
        return kind == "sliding_attention" or (kind == "sparse_attention" and self.sparse_window_branch)

    def has_own_kv(self, layer):
        """Whether the layer projects keys and values of its own."""
        if self.layer_types[layer] != "sparse_attention":
            return True
        return not self.share_kv or (self.sparse_window_branch and not self.share_kv_window)

    def keeps_all_keys(self, layer):
        """Whether the cache holds every token's keys of the layer (else those of its window, or none)."""
        kind = self.layer_types[layer]
        return kind == "full_attention" or (kind == "sparse_attention" and not self.share_kv)

    def feeds_followers(self, layer):
        """Whether a full layer has sparse layers that read its choice of blocks."""
        following = self.layer_types[layer + 1 :]
        return self.layer_types[layer] == "full_attention" and (
            "sparse_attention"
            in following[: following.index("full_attention") if "full_attention" in following else len(following)]
        )
