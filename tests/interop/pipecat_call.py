"""One call through Pipecat's own aggregators, with toy frames, published as the example says. Prints what
must come of it, as JSON: pipecat_call.py SESSION_ID
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "publishers"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "pipecat")]

from finalizer_pipecat import Call
from loguru import logger
from pipecat.frames.frames import (
    EndFrame, InterruptionFrame, LLMFullResponseEndFrame, LLMFullResponseStartFrame, LLMTextFrame, MetricsFrame,
    TranscriptionFrame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import (
    LLMTokenUsage, LLMUsageMetricsData, STTUsage, STTUsageMetricsData, TTFBMetricsData, TTSUsageMetricsData,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner
from publisher import Publisher

PROMPT = "SECRET-SYSTEM-PROMPT: you are support-bot."
IDENTITY = {"tenant_id": "acme", "character_slug": "support-bot", "character_owner": 7}
# In any order of time that the model and the voice care for; all the same for what is counted.
METRICS = [
    # Gross of cache, as OpenAI has it, and net of it, as Anthropic and Bedrock have it.
    LLMUsageMetricsData(processor="OpenAILLMService#0", model="gpt-4o-mini", value=LLMTokenUsage(
        prompt_tokens=1000, completion_tokens=20, total_tokens=1020, cache_read_input_tokens=600)),
    LLMUsageMetricsData(processor="AnthropicLLMService#0", model="claude-haiku-4-5", value=LLMTokenUsage(
        prompt_tokens=100, completion_tokens=10, total_tokens=150, cache_read_input_tokens=30, cache_creation_input_tokens=10)),
    # All of it was cached but a little.
    LLMUsageMetricsData(processor="AWSBedrockLLMService#0", model="claude-haiku-4-5", value=LLMTokenUsage(
        prompt_tokens=4, completion_tokens=6, total_tokens=810, cache_read_input_tokens=500, cache_creation_input_tokens=300)),
    # Gross, with a total that has more in it (thoughts), and without a total.
    LLMUsageMetricsData(processor="TogetherLLMService#0", model="glm", value=LLMTokenUsage(
        prompt_tokens=200, completion_tokens=5, total_tokens=245, cache_read_input_tokens=50, reasoning_tokens=40)),
    LLMUsageMetricsData(processor="OLLamaLLMService#0", model="llama", value=LLMTokenUsage(
        prompt_tokens=70, completion_tokens=3, total_tokens=0)),
    TTSUsageMetricsData(processor="ElevenLabsTTSService#0", model="eleven_turbo_v2_5", value=120),
    TTSUsageMetricsData(processor="ElevenLabsTTSService#0", model="eleven_turbo_v2_5", value=8),
    STTUsageMetricsData(processor="DeepgramSTTService#0", model="nova-3", value=STTUsage(audio_seconds=1.25)),
    STTUsageMetricsData(processor="DeepgramSTTService#0", model="nova-3", value=STTUsage(audio_seconds=2.5)),
    TTFBMetricsData(processor="OpenAILLMService#0", model="gpt-4o-mini", value=0.41),
]


async def main(session_id):
    call = Call(session_id=session_id, user=42, **IDENTITY)
    aggregators = LLMContextAggregatorPair(LLMContext([{"role": "system", "content": PROMPT}]))
    call.listen_to(aggregators)
    turns = Turns(aggregators)
    worker = PipelineWorker(
        Pipeline([aggregators.user(), aggregators.assistant()]), observers=[call],
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
    )
    started = asyncio.Event()
    worker.event_handler("on_pipeline_started")(lambda *_: started.set())
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak(worker, started, turns))
    publisher = Publisher(os.environ["FINALIZER_AMQP_URL"], os.environ["FINALIZER_SPOOL"], patience_seconds=2)
    is_published = await publisher.publish(call.ended())
    print(json.dumps({
        "session_id": session_id,
        "is_published": is_published,
        "turns": [
            ["assistant", "Hi! How can I help you today?"], ["user", "I want to book a demo."],
            ["assistant", "Once upon a time"],
        ],
        "numbers": {
            "llm_input_tokens": 2214, "llm_output_tokens": 44, "llm_model": "gpt-4o-mini", "llm_provider": "openai",
            "tts_characters": 128, "tts_provider": "elevenlabs", "stt_audio_seconds": 3.75, "stt_provider": "deepgram",
            "user": 42, "tenant_id": "acme", "character_slug": "support-bot",
        },
    }))


class Turns:
    """Lets the conversation go on when the turn before has ended."""

    def __init__(self, aggregators):
        self.ended = asyncio.Queue()
        aggregators.user().add_event_handler("on_user_turn_message_added", self.end)
        aggregators.assistant().add_event_handler("on_assistant_turn_stopped", self.end)

    async def end(self, *_):
        self.ended.put_nowait(None)

    async def next(self):
        await asyncio.wait_for(self.ended.get(), 20)


async def speak(worker, started, turns):
    await asyncio.wait_for(started.wait(), 20)
    await worker.queue_frame(MetricsFrame(data=METRICS))
    await say(worker, turns, ["Hi! ", "How can I help you today?"], LLMFullResponseEndFrame())
    await worker.queue_frame(VADUserStartedSpeakingFrame())
    for text in ("I want to book", "a demo."):
        await worker.queue_frame(TranscriptionFrame(text=text, user_id="user-123", timestamp=time_now_iso8601()))
    await worker.queue_frame(VADUserStoppedSpeakingFrame())
    await turns.next()
    # The caller cuts in.
    await say(worker, turns, ["Once upon a time "], InterruptionFrame())
    await worker.queue_frame(EndFrame())


async def say(worker, turns, texts, end):
    for frame in [LLMFullResponseStartFrame(), *map(LLMTextFrame, texts)]:
        await worker.queue_frame(frame)
    if isinstance(end, InterruptionFrame):
        # It would overtake what it interrupts.
        await asyncio.sleep(0.2)
    await worker.queue_frame(end)
    await turns.next()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    logger.remove()
    asyncio.run(main(sys.argv[1]))
