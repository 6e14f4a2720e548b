"""Memory reinstatement: a slot for each episode, updated by a transformer (after TrMRL, Melo 2022, arXiv 2206.06614).

An encoder reads the working memory, the last steps of an episode; a decoder refines the episodic memories, one for each
episode of the trial.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import softmax
from metarl.models.attention_recorder import Unit, is_recording, record
from metarl.models.base import Depth, SequenceModel
from metarl.models.transformer import PositionCode, check_sizes, feed_forward


class EpisodicCarry(NamedTuple):
    """Working and episodic memory; lanes need not be at the same step of their episodes."""

    recent: Tensor  # [B, window - 1, hidden_size], embeddings of the last steps, newest last
    episode_step: Tensor  # int64 [B], steps of the current episode so far
    slots: Tensor  # [B, num_slots, hidden_size], oldest episode first; zeros in unused ones
    episodes: Tensor  # int64 [B], number of episodes of the trial, the current one included


class Plan(NamedTuple):
    """Episode, slot and eviction of each step of a sequence, computed from the start-of-episode flags alone."""

    episode_step: Tensor  # int64 [T, B], earlier steps of the episode
    slot: Tensor  # int64 [T, B], slot of the current episode
    evicts: Tensor  # bool [T, B]: an episode starts and no slot is free, so the oldest one is dropped
    episodes: Tensor  # int64 [B], number of episodes after the last step


class Reinstatement(SequenceModel):
    """Attention memory with one slot per episode, updated from an encoded window of the current episode.

    At every step the decoder reads the slots of all episodes so far and the encoded window, and its output at the slot
    of the current episode replaces that slot. The output is the embedding of the step, concatenated to that slot.

    Args:
        input_dim: size of the input, whose last channel is 1 where an episode starts.
        embedding_size: tanh units between the input and its embedding.
        hidden_size: size of embeddings, slots and layers; even, for sinusoids.
        num_layers: layers of the encoder, and of the decoder.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        window: steps of the working memory, the current one included; steps of earlier episodes are masked.
        num_slots: episodes stored, the current one included; a further one replaces the oldest.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    def __init__(
        self,
        input_dim: int,
        embedding_size: PositiveInt = 128,
        hidden_size: PositiveInt = 128,
        num_layers: Depth = 1,
        num_heads: PositiveInt = 4,
        feedforward_size: PositiveInt = 256,
        window: PositiveInt = 8,
        num_slots: PositiveInt = 16,
    ):
        super().__init__()
        check_sizes(hidden_size, num_heads)
        self.hidden_size, self.window, self.num_slots = hidden_size, window, num_slots
        self.embed = nn.Sequential(
            nn.Linear(input_dim, embedding_size), nn.Tanh(), nn.Linear(embedding_size, hidden_size)
        )
        self.code = PositionCode("sinusoidal", hidden_size, None)
        encoder_layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, feedforward_size, dropout=0.0, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(encoder_layer, num_layers, enable_nested_tensor=False)
        self.decoder = nn.ModuleList(DecoderLayer(hidden_size, num_heads, feedforward_size) for _ in range(num_layers))
        self.sources = nn.ModuleList(SourceProjection(hidden_size, num_heads) for _ in range(num_layers))
        self._initialize()
        self.output_dim = 2 * hidden_size

    def _initialize(self) -> None:
        """Xavier weights, for queries, keys and values separately, and zero biases."""
        for name, parameter in self.named_parameters():
            stacked = "in_proj" in name or name.endswith(("slots.weight", "project.weight"))
            if parameter.ndim > 1:
                for block in parameter.data.split(self.hidden_size) if stacked else [parameter.data]:
                    nn.init.xavier_uniform_(block)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def initial_carry(self, batch_size: int) -> EpisodicCarry:
        like = self.code.like
        recent, slots = (
            like.new_zeros(batch_size, rows, self.hidden_size) for rows in (self.window - 1, self.num_slots)
        )
        episode_step, episodes = torch.zeros(2, batch_size, dtype=torch.long, device=like.device)
        return EpisodicCarry(recent, episode_step, slots, episodes)

    def forward(self, x: Tensor, carry: EpisodicCarry) -> tuple[Tensor, EpisodicCarry]:
        plan = self._plan(x[..., -1] > 0.5, carry)
        embedding = self.embed(x)
        rows = torch.cat([carry.recent.transpose(0, 1), embedding])  # [window - 1 + T, B, size]
        longest = min(self.window, int(plan.episode_step.max()) + 1)  # longest window; all earlier rows are masked
        padding_mask = torch.arange(longest - 1, -1, -1, device=x.device) > plan.episode_step.unsqueeze(
            -1
        )  # [T, B, longest]
        encoded = self._encode(rows[self.window - longest :], padding_mask)
        sources = [source(encoded, padding_mask) for source in self.sources]
        written, slots = self._decode(sources, plan, carry.slots)
        recent = rows[len(rows) - (self.window - 1) :].transpose(0, 1)  # [B, window - 1, size]
        after = EpisodicCarry(recent, plan.episode_step[-1] + 1, slots, plan.episodes)
        return torch.cat([embedding, written], dim=-1), after

    def _plan(self, starts: Tensor, carry: EpisodicCarry) -> Plan:
        """Plan of steps with flags ``starts``, bool ``[T, B]``; the first step of a trial always starts an episode."""
        starts = torch.cat([starts[:1] | (carry.episodes == 0), starts[1:]])
        time = torch.arange(len(starts), device=starts.device).unsqueeze(1)
        start = torch.where(starts, time, -carry.episode_step).cummax(0).values
        episodes = carry.episodes + starts.long().cumsum(0)
        evicts = starts & (episodes > self.num_slots)
        return Plan(time - start, episodes.clamp(max=self.num_slots) - 1, evicts, episodes[-1])

    def _encode(self, rows: Tensor, padding_mask: Tensor) -> Tensor:
        """Encoded windows ``[T, B, longest, size]`` of embeddings ``[longest - 1 + T, B, size]``, with codes of age."""
        longest = padding_mask.shape[-1]
        windows = rows.unfold(0, longest, 1).transpose(-1, -2)  # [T, B, longest, size]
        windows = windows + self.code(0, longest).flip(0)
        encoded = self.encoder(windows.flatten(0, 1), src_key_padding_mask=padding_mask.flatten(0, 1))
        return encoded.unflatten(0, windows.shape[:2])  # [T, B, longest, size]

    def _decode(self, sources: list["Source"], plan: Plan, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The recurrence over time: the slot written at each step, ``[T, B, size]``, and all slots after the last."""
        code, index = self.code(0, self.num_slots), torch.arange(self.num_slots, device=slots.device)
        current = index == plan.slot.unsqueeze(-1)  # [T, B, slots]
        unused = (index > plan.slot.unsqueeze(-1)).unsqueeze(-2).unsqueeze(-2)  # [T, B, 1, 1, slots]
        written = []
        for t in range(len(current)):
            shifted = F.pad(slots[:, 1:], (0, 0, 0, 1))
            slots = torch.where(plan.evicts[t, :, None, None], shifted, slots)
            here, target = current[t].unsqueeze(-1), slots + code
            for layer, source in zip(self.decoder, sources, strict=True):
                last = layer is self.decoder[-1]  # only the row of the current slot is needed
                query = (target * here).sum(1, keepdim=True) if last else target
                target = layer(query, target, unused[t], source.at(t), plan.slot[t])
            slots = torch.where(here, target, slots)
            written.append(target.squeeze(1))
        return torch.stack(written), slots


class Source(NamedTuple):
    """Keys and values of encoded windows for one layer of the decoder."""

    keys: Tensor  # [T, B, heads, head_dim, window], scaled
    values: Tensor  # [T, B, heads, window, head_dim]
    padding_mask: Tensor  # bool [T, B, 1, 1, window], True for rows before the episode

    def at(self, step: int) -> "Source":
        """Keys and values of one step, without the axis of time."""
        return Source(self.keys[step], self.values[step], self.padding_mask[step])


class SourceProjection(nn.Module):
    """Projection of encoded windows to keys and values of a decoder layer, for a whole sequence at once."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads, self.project = num_heads, nn.Linear(size, 2 * size, bias=False)

    def forward(self, encoded: Tensor, padding_mask: Tensor) -> Source:
        """Keys and values of encoded windows ``[T, B, window, size]`` with a padding mask ``[T, B, window]``."""
        keys, values = _keys_and_values(self.project(encoded), self.num_heads)
        return Source(keys, values, padding_mask.unsqueeze(-2).unsqueeze(-2))


class DecoderLayer(nn.Module):
    """Attention of slots to slots, attention to the window, and a feed-forward layer, with post-normalisation.

    A decoder layer of Vaswani et al. 2017, section 3.1.
    """

    def __init__(self, size: int, num_heads: int, feedforward_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.slots = nn.Linear(size, size, bias=False), nn.Linear(size, 2 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        self.window_query, self.window_output = (nn.Linear(size, size, bias=False) for _ in range(2))
        self.feed = feed_forward(size, feedforward_size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))

    def forward(self, query: Tensor, slots: Tensor, unused: Tensor, source: Source, slot: Tensor) -> Tensor:
        """Output of all slots ``[B, slots, size]``, or of the current ``slot`` alone ``[B, 1, size]``, at one step."""
        keys, values = _keys_and_values(self.slots(slots), self.num_heads)
        read, weights = _attend(self.query(query), keys, values, unused)
        _record(weights, slot, "episode")
        x = self.norms[0](query + self.output(read))
        read, weights = _attend(self.window_query(x), source.keys, source.values, source.padding_mask)
        _record(weights, slot, "step")
        x = self.norms[1](x + self.window_output(read))
        return self.norms[2](x + self.feed(x))


def _keys_and_values(projected: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Scaled keys ``[..., heads, head_dim, n]`` and values ``[..., heads, n, head_dim]`` from ``[..., n, 2 size]``."""
    keys, values = projected.unflatten(-1, (2, num_heads, -1)).transpose(-4, -2).unbind(-3)  # [..., heads, n, head_dim]
    return keys.shape[-1] ** -0.5 * keys.transpose(-1, -2), values


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of rows ``[B, rows, size]`` to keys ``[B, heads, head_dim, n]`` not masked, and its weights."""
    scores = query.unflatten(-1, (keys.shape[1], -1)).transpose(1, 2) @ keys  # [B, heads, rows, n]
    weights = softmax(scores.masked_fill(mask, -torch.inf))
    return (weights @ values).transpose(1, 2).flatten(2), weights  # [B, rows, size], [B, heads, rows, n]


def _record(weights: Tensor, slot: Tensor, unit: Unit) -> None:
    """Record the weights of the current slot, a row of ``[B, heads, slots or 1, n]``."""
    if is_recording():
        rows = slot if weights.shape[2] > 1 else torch.zeros_like(slot)
        keys = torch.arange(weights.shape[-1], device=slot.device)
        distance = slot.unsqueeze(1) - keys if unit == "episode" else keys.flip(0)
        record(weights[torch.arange(len(weights)), :, rows], distance, unit)
