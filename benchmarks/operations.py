"""The least work of each benchmark, counted: floating-point operations in products, and bytes that must move."""

from torch import nn
from transformers import PreTrainedModel

from seqgan_hf.models import TextCNNConfig

# A backward pass multiplies twice where the forward pass multiplies once: for the weights, and for the inputs.
TRAINING = 3
# AdamW reads weight, gradient and two moments, and writes all but the gradient, in float32.
_ADAMW_BYTES = 7 * 4


def sampled_tokens(batch_size: int, length: int, num_rollouts: int, stride: int = 1) -> int:
    """
    Count the tokens that rollouts of full length must sample: the sum of T - t over the prefix lengths t < T.

    Args:
        batch_size (`int`): Completions, B.
        length (`int`): Their tokens, T.
        num_rollouts (`int`): N of each prefix.
        stride (`int`): Every so many tokens a prefix is rolled out.

    Returns:
        `int`: N B T (T - 1) / 2 at stride 1.
    """
    return num_rollouts * batch_size * sum(length - prefix for prefix in range(stride, length, stride))


def projection_operations(model: PreTrainedModel) -> int:
    """Count what the logits of one token take: 2 x width x vocabulary."""
    return 2 * model.get_output_embeddings().weight.numel()


def body_operations(model: PreTrainedModel) -> int:
    """Count what one token takes between embedding and logits: 2 for each weight. Attention comes on top."""
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    looked_up.add(id(model.get_output_embeddings().weight))
    return 2 * sum(p.numel() for p in model.parameters() if p.dim() > 1 and id(p) not in looked_up)


def attention_operations(model: PreTrainedModel, context: int) -> int:
    """Count what one token takes to look back at `context` tokens, itself included: 4 x width x context in each layer."""
    if getattr(model.config, "num_attention_heads", None) is None:
        return 0
    return 4 * model.config.num_hidden_layers * model.config.hidden_size * context


def rollout_operations(model: PreTrainedModel, batch_size: int, length: int, num_rollouts: int) -> int:
    """
    Count what rollouts of every prefix take: body, attention and logits for each token sampled.

    Prompts are one start token. Choosing the tokens, a softmax and a sum over the vocabulary, is not counted, nor are the
    B x T tokens that are forced. (The first tokens of the rollouts of one prefix could share their logits, which would
    save a share of 2 / T.)

    Args:
        model (`PreTrainedModel`): The generator.
        batch_size, length, num_rollouts (`int`): See [`sampled_tokens`].
    """
    each = projection_operations(model) + body_operations(model)
    # The token at position p is sampled for the p prefixes of 1 to p tokens, from p tokens and the start token.
    attention = sum(p * attention_operations(model, p + 1) for p in range(1, length))
    return each * sampled_tokens(batch_size, length, num_rollouts) + num_rollouts * batch_size * attention


def sequence_operations(model: PreTrainedModel, length: int) -> int:
    """Count a forward pass over one text of `length` tokens behind a start token, with the logits of all of them."""
    each = projection_operations(model) + body_operations(model)
    return sum(each + attention_operations(model, position + 1) for position in range(length))


def cnn_operations(config: TextCNNConfig, length: int) -> int:
    """
    Count a forward pass of the discriminator over one text.

    A filter of width w takes 2 w E operations in each of T - w + 1 windows, a highway layer two square products of the
    pooled features, and the output layer one product.

    Args:
        config (`TextCNNConfig`): Its shape.
        length (`int`): Tokens of the text, T.
    """
    convolutions = sum(
        2 * width * config.embedding_size * filters * (max(length, width) - width + 1)
        for width, filters in zip(config.filter_sizes, config.num_filters, strict=True)
    )
    features = sum(config.num_filters)
    return convolutions + config.num_highway_layers * 4 * features**2 + 2 * features * (config.num_labels or 2)


def optimizer_bytes(model: nn.Module) -> int:
    """Count what one step of AdamW must read and write."""
    return _ADAMW_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
