"""What a Pipecat call becomes: Pipecat makes no report, so a `Call` listens and keeps count.

  call = Call(session_id="0197…", tenant_id="acme", character_slug="support-bot", character_owner=7)
  call.listen_to(aggregators)                       # the LLMContextAggregatorPair
  PipelineWorker(pipeline, observers=[call],        # for what is used
                 params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))
  await publisher.publish(call.ended())
"""

import re
from collections import defaultdict
from datetime import datetime, timezone

from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import LLMUsageMetricsData, STTUsageMetricsData, TTSUsageMetricsData
from pipecat.observers.base_observer import BaseObserver

KINDS = {LLMUsageMetricsData: "llm", STTUsageMetricsData: "stt", TTSUsageMetricsData: "tts"}


class Call(BaseObserver):
    """One call, from its beginning; fields beyond the required ones become fields of the event."""

    def __init__(self, *, session_id, tenant_id, character_slug, character_owner, **more):
        super().__init__(observe_every_push=False)
        self.started_at = now()
        self.messages = []
        self.usage = defaultdict(lambda: defaultdict(float))
        self.fields = {
            "session_id": session_id, "tenant_id": tenant_id, "character_slug": character_slug,
            "character_owner": character_owner, **more,
        }

    def listen_to(self, aggregators):
        """Hears what is said; to be called before the pipeline runs."""
        # This one has the text in realtime mode, too. `on_user_turn_stopped` would tell of each turn again.
        aggregators.user().add_event_handler("on_user_turn_message_added", self._hear("user"))
        aggregators.assistant().add_event_handler("on_assistant_turn_stopped", self._hear("assistant"))

    def _hear(self, role):
        async def hear(_aggregator, *arguments):
            turn = arguments[-1]
            # Pipecat says when the turn began.
            self.messages.append({
                "role": role, "text": turn.content or "", "started_at": turn.timestamp,
                "interrupted": getattr(turn, "interrupted", False), "ended_at": now(),
            })

        return hear

    async def on_push_frame(self, data):
        if isinstance(data.frame, MetricsFrame):
            for metrics in data.frame.data:
                self._count(metrics)

    def _count(self, metrics):
        kind = KINDS.get(type(metrics))
        if kind is None:
            return
        counts = self.usage[kind, provider_of(metrics.processor), metrics.model or ""]
        if kind == "llm":
            tokens = metrics.value
            counts["input_tokens"] += input_tokens(tokens)
            counts["input_cached_tokens"] += tokens.cache_read_input_tokens or 0
            counts["input_cache_creation_tokens"] += tokens.cache_creation_input_tokens or 0
            counts["output_tokens"] += tokens.completion_tokens
        elif kind == "stt":
            counts["audio_seconds"] += metrics.value.audio_seconds
        else:
            counts["characters"] += metrics.value

    def ended(self):
        """The event that ends the call, now."""
        ended_at = now()
        return {
            "type": "session.ended",
            "schema_version": 1,
            # The same for every copy.
            "event_id": f"{self.fields['session_id']}-ended",
            "occurred_at": ended_at,
            "started_at": self.started_at,
            "ended_at": ended_at,
            "source": {"kind": "messages"},
            "messages": self.messages,
            "usage": [
                {"type": kind, "provider": provider, "model": model, **rounded(counts)}
                for (kind, provider, model), counts in self.usage.items()
            ],
            **self.fields,
        }


def input_tokens(tokens):
    """All tokens that went in, those that were cached included.

    Anthropic and Bedrock leave cached tokens out of `prompt_tokens`, and Pipecat adds them to the total. For
    all others they are in it. The total alone does not tell: it is the provider's own for those that talk
    like OpenAI, some of which count in it what they leave out of `completion_tokens`, or send none.
    """
    cached = (tokens.cache_read_input_tokens or 0) + (tokens.cache_creation_input_tokens or 0)
    is_net = tokens.total_tokens == tokens.prompt_tokens + cached + tokens.completion_tokens
    # More than all of it cannot have been cached.
    return tokens.prompt_tokens + cached if is_net or cached > tokens.prompt_tokens else tokens.prompt_tokens


def provider_of(processor):
    """`OpenAILLMService#0` is `openai`. Pipecat has no other word for it."""
    return re.sub(r"(LLM|STT|TTS|Http|Realtime|Service)*(#\d+)?$", "", processor).lower()


def rounded(counts):
    """Tokens and characters are whole numbers."""
    return {name: value if name == "audio_seconds" else int(value) for name, value in counts.items()}


def now():
    return datetime.now(timezone.utc).isoformat()
