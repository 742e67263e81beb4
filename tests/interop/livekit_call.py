"""One call in LiveKit's own AgentSession, without a room and with toy models, published by the example
worker. Prints what must come of it, as JSON: livekit_call.py SESSION_ID
"""

import asyncio
import json
import logging
import sys
import time
import types
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "publishers"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "livekit")]

import worker
from livekit.agents import Agent, AgentSession, JobContext, function_tool, llm, tts, utils
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS
from livekit.agents.voice import io

PROMPT = "SECRET-SYSTEM-PROMPT: you are support-bot."
GREETING = "Hi! How can I help you today?"
ANSWERS = {
    "I want to book a demo.": "Great — what day works for you?",
    "Friday": None,  # a tool is called
    "booked Friday": "Done, Friday it is. Süß, 東京.",
}
METADATA = {"tenant_id": "acme", "character_slug": "support-bot", "character_owner": 7}


class ToyModel(llm.LLM):
    """Knows its answers by heart."""

    model = property(lambda self: "gpt-4o-mini")
    provider = property(lambda self: "api.openai.com")

    def chat(self, *, chat_ctx, tools=None, conn_options=DEFAULT_API_CONNECT_OPTIONS, **_):
        return ToyAnswer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class ToyAnswer(llm.LLMStream):
    async def _run(self):
        last = self.chat_ctx.items[-1]
        answer = ANSWERS[last.output if last.type == "function_call_output" else last.text_content]
        if answer is None:
            book = llm.FunctionToolCall(name="book_demo", arguments='{"day": "Friday"}', call_id="call_1")
            delta = llm.ChoiceDelta(role="assistant", tool_calls=[book])
        else:
            delta = llm.ChoiceDelta(role="assistant", content=answer)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))
        usage = llm.CompletionUsage(prompt_tokens=100, prompt_cached_tokens=40, completion_tokens=10, total_tokens=110)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", usage=usage))


class ToyVoice(tts.TTS):
    """Is silent for a hundredth of a second a letter."""

    model = property(lambda self: "tts-1")
    provider = property(lambda self: "openai")

    def __init__(self):
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=24000, num_channels=1)

    def synthesize(self, text, *, conn_options=DEFAULT_API_CONNECT_OPTIONS):
        return ToySpeech(tts=self, input_text=text, conn_options=conn_options)


class ToySpeech(tts.ChunkedStream):
    async def _run(self, output):
        output.initialize(request_id=utils.shortuuid(), sample_rate=24000, num_channels=1, mime_type="audio/pcm")
        output.push(b"\0\0" * 240 * len(self.input_text))
        output.flush()


class Loudspeaker(io.AudioOutput):
    """Has played everything once it is flushed."""

    def __init__(self):
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=False))
        self.seconds = 0.0

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        if self.seconds == 0:
            self.on_playback_started(created_at=time.time())
        self.seconds += frame.duration

    def flush(self):
        super().flush()
        if self.seconds > 0:
            asyncio.get_running_loop().call_soon(self.finish)

    def finish(self):
        played, self.seconds = self.seconds, 0.0
        self.on_playback_finished(playback_position=played, interrupted=False)

    def clear_buffer(self):
        pass


class Support(Agent):
    def __init__(self):
        super().__init__(instructions=PROMPT)

    @function_tool
    async def book_demo(self, day: str) -> str:
        """Book a demo on a weekday."""
        return f"booked {day}"


async def main(session_id):
    session = AgentSession(llm=ToyModel(), tts=ToyVoice())
    session.output.audio = Loudspeaker()
    await session.start(Support())
    await session.say(GREETING)
    for question in ("I want to book a demo.", "Friday"):
        await asyncio.wait_for(session.generate_reply(user_input=question), 30)
    await session.aclose()
    await worker.on_session_end(job_context(session, session_id))
    print(json.dumps({
        "session_id": session_id,
        "turns": [
            ["assistant", GREETING],
            ["user", "I want to book a demo."], ["assistant", ANSWERS["I want to book a demo."]],
            ["user", "Friday"], ["assistant", ANSWERS["booked Friday"]],
        ],
        "numbers": {
            "llm_input_tokens": 300, "llm_output_tokens": 30, "llm_model": "gpt-4o-mini", "llm_provider": "openai",
            "tts_characters": sum(map(len, (GREETING, ANSWERS["I want to book a demo."], ANSWERS["booked Friday"]))),
            "room_name": "room-of-the-call", "user": 42, "tenant_id": "acme", "character_slug": "support-bot",
        },
    }))


def job_context(session, session_id):
    """As much of a job as there is without a LiveKit server."""
    metadata = json.dumps({"session_id": session_id, "user": 42, **METADATA})
    room = types.SimpleNamespace(sid="RM_interop", name="room-of-the-call")
    job = types.SimpleNamespace(id="AJ_interop", agent_name="support", room=room, metadata=metadata)
    context = types.SimpleNamespace(job=job, _primary_agent_session=session, _tagger=types.SimpleNamespace(tags=set()))
    context.make_session_report = types.MethodType(JobContext.make_session_report, context)
    return context


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(sys.argv[1]))
